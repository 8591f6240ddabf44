// The header: which theme, which tab, which hints. All of it stays in this browser.
const kept = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
const keep = (key, value) => { try { localStorage.setItem(key, value); } catch { /* private window */ } };

// ---- dark or light: the system's choice (or ?__theme=), until the switch is used

const THEME = 'thinkswitch-theme';
let theme = new URLSearchParams(location.search).has('__theme') ? null : kept(THEME);
let wasDark = null;

const applyTheme = () => {
  const dark = document.body.classList.contains('dark');
  if (theme && dark !== (theme === 'dark')) {
    document.body.classList.toggle('dark');
    return; // and comes back here
  }
  document.documentElement.style.colorScheme = dark ? 'dark' : 'light';
  if (wasDark !== null && wasDark !== dark) document.dispatchEvent(new Event('themechange'));
  wasDark = dark;
};

const switchTheme = () => {
  theme = document.body.classList.contains('dark') ? 'light' : 'dark';
  keep(THEME, theme);
  applyTheme();
};

// ---- hints: three of them, until each is dismissed or done

const HINTS = 'thinkswitch-hints-seen';
const ALL_HINTS = ['slider', 'loop', 'export'];
const seenHints = new Set((kept(HINTS) || '').split(' '));

const showHints = () => {
  document.documentElement.dataset.hints = ALL_HINTS.filter((hint) => !seenHints.has(hint)).join(' ');
};

const dismissHint = (hint) => {
  if (seenHints.has(hint)) return;
  seenHints.add(hint);
  keep(HINTS, [...seenHints].join(' ').trim());
  showHints();
};

const DOING = { '#loop-start': 'loop', '#export-start': 'export' };

document.addEventListener('click', (event) => {
  if (!event.target.closest) return;
  if (event.target.closest('#theme-switch')) switchTheme();
  const go = event.target.closest('#hints .go');
  if (go) tabButton(go.dataset.tab)?.click();
  const dismissed = event.target.closest('#hints .dismiss');
  if (dismissed) dismissHint(dismissed.closest('.hint').dataset.hint);
  Object.entries(DOING).forEach(([button, hint]) => { if (event.target.closest(button)) dismissHint(hint); });
});
document.addEventListener('change', (event) => {
  if (event.target.matches?.('#compare-t input[type=range]')) dismissHint('slider');
});
showHints();

// ---- tabs have an address: a reload stays where one was, Back goes to the tab before

const FIRST_TAB = 'compare';
const tabButton = (name) => document.querySelector(`#tabs [role=tab][data-tab-id="${CSS.escape(name)}"]`);
const openTab = () => document.querySelector('#tabs [role=tab][aria-selected=true]')?.dataset.tabId;
const addressed = () => location.hash.slice(1) || FIRST_TAB;

const followAddress = () => {
  const button = tabButton(addressed());
  if (button && openTab() !== addressed()) button.click();
};

const noteTab = () => {
  const open = openTab();
  if (!open || open === addressed()) return;
  const hash = open === FIRST_TAB ? '' : `#${open}`; // not `#loop` alone: the page has a <base>
  history.pushState(null, '', location.pathname + location.search + hash);
};

// While the page is built, Gradio opens its own first tab, perhaps more than once: ask until ours stays open.
const SETTLED_MS = 400;

const watchTabs = () => {
  const notes = () => new MutationObserver(noteTab).observe(document.querySelector('#tabs'), {
    subtree: true, attributes: true, attributeFilter: ['aria-selected'],
  });
  if (!tabButton(addressed()) || addressed() === FIRST_TAB) return notes();
  let since = performance.now();
  const settle = () => {
    if (openTab() !== addressed()) {
      followAddress();
      since = performance.now();
    }
    if (performance.now() - since > SETTLED_MS) notes();
    else requestAnimationFrame(settle);
  };
  settle();
};

window.addEventListener('popstate', followAddress);

// ---- once there is a page

const begin = () => {
  applyTheme();
  new MutationObserver(applyTheme).observe(document.body, { attributes: true, attributeFilter: ['class'] });
  const built = new MutationObserver(() => {
    if (openTab() !== FIRST_TAB) return;
    built.disconnect();
    watchTabs();
  });
  built.observe(document.body, { subtree: true, childList: true });
};

if (document.body) begin();
else document.addEventListener('DOMContentLoaded', begin);
