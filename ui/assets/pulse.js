// Asks once a second whether there is news of the page or of its open tab, and presses the button that
// fetches it: see pulse.py. Gradio's events may have to wait for the next one to bring their answers, so one is sent
// after them; not at once, since the first words of an answer have the machine to themselves.
const PULSE_MS = 1000;
const CALM = 8; // a page that is late with drawing asks less often: it rests so many times as long as it is late
const LONGEST_REST_MS = 5000; // a suspended laptop is hours late, too
const SOON_MS = 60; // after a tab is opened, until it is drawn
const QUIET_BEATS = 3;
const seen = {};
let owed = true; // for the events of opening
let quiet = 0; // beats since the last event
let rescuing = false;

const fetchNow = window.fetch;
window.fetch = (...call) => {
  if (String(call[0]?.url ?? call[0]).includes('/queue/join')) {
    owed = !rescuing;
    quiet = 0;
    rescuing = false;
  }
  return fetchNow(...call);
};

const button = (part) => document.querySelector(`#pulse-${part}`);
const openTabName = () => document.querySelector('#tabs [role=tab][aria-selected=true]')?.dataset.tabId;

const look = async () => {
  const { versions, gauges } = await (await fetchNow('pulse')).json();
  const news = ['page', openTabName()].filter((part) => versions[part] !== seen[part] && button(part));
  news.forEach((part) => {
    seen[part] = versions[part];
    button(part).click();
  });
  const shown = document.querySelector('#machine-load .gauges');
  if (shown) shown.innerHTML = gauges; // numbers, made by the server
};

const beat = async (due) => {
  const late = Math.max(0, performance.now() - due);
  try {
    await look();
    quiet += 1;
    if (owed && quiet >= QUIET_BEATS) {
      rescuing = true;
      button('page')?.click();
    }
  } catch { /* the server is away; Gradio says so */ }
  beatIn(PULSE_MS + Math.min(CALM * late, LONGEST_REST_MS));
};
const beatIn = (ms) => setTimeout(beat, ms, performance.now() + ms);
beatIn(PULSE_MS);

document.addEventListener('click', ({ target }) => {
  if (target.closest?.('#tabs [role=tab]')) setTimeout(() => look().catch(() => {}), SOON_MS);
});
