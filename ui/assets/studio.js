// Esc stops the decode that Compare shows.
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  const stop = document.querySelector('#compare-stop');
  if (stop && !stop.disabled && stop.offsetParent) stop.click();
});

// Gradio takes Tab in a list for typing: the list opened again while the focus left it, and stayed open.
document.addEventListener('keydown', (event) => {
  const leaving = event.key === 'Tab' || event.key === 'Shift';
  if (leaving && event.target.matches?.('input[role=combobox]')) event.stopPropagation();
}, true);

// Gradio reports a slider's `release` for the mouse only: make the keys count, too.
document.addEventListener('keyup', (event) => {
  const slider = event.target;
  if (!slider.matches || !slider.matches('input[type=range]')) return;
  if (/^(Arrow|Home|End|Page)/.test(event.key)) {
    slider.dispatchEvent(new PointerEvent('pointerup', { bubbles: true }));
  }
});

// The box of t takes Enter, and what lies outside the slider becomes its nearest end before Gradio refuses it.
const tBox = (event) => event.target.closest?.('#compare-t') && event.target.type === 'number' && event.target;

document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && tBox(event)) event.target.blur();
});

document.addEventListener('blur', (event) => {
  const box = tBox(event);
  if (!box) return;
  const last = box.dataset.last ?? box.closest('#compare-t').querySelector('input[type=range]').value;
  const asked = box.value.trim() === '' ? Number(last) : Number(box.value);
  const t = Math.min(1, Math.max(0, asked));
  if (String(t) === box.value) return;
  box.value = t;
  box.dispatchEvent(new Event('input', { bubbles: true }));
}, true);

document.addEventListener('focus', (event) => {
  const box = tBox(event);
  if (box) box.dataset.last = box.value;
}, true);

// Plotly is 5 MB: it is loaded once, when the first chart is drawn.
window.plotlyReady = () => {
  window.plotlyLoading ||= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = 'plotly.min.js';
    script.onload = () => resolve(window.Plotly);
    script.onerror = reject;
    document.head.appendChild(script);
  });
  return window.plotlyLoading;
};

// The last prompts of Compare with their settings: in this browser, newest first. See recent_prompts.py.
window.recentPrompts = {
  KEY: 'thinkswitch-recent-prompts',
  MOST: 20,
  LABEL_LENGTH: 90,

  read() {
    try {
      return JSON.parse(localStorage.getItem(this.KEY)) || [];
    } catch {
      return [];  // another version wrote it
    }
  },

  choices(entries) {
    const label = ({ prompt }) => (prompt.length > this.LABEL_LENGTH ? `${prompt.slice(0, this.LABEL_LENGTH)} …` : prompt);
    return { __type__: 'update', choices: entries.map((entry, i) => [label(entry), String(i)]), value: null };
  },

  show() {
    return this.choices(this.read());
  },

  remember(names, values) {
    const entry = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    const others = this.read().filter((other) => other.prompt !== entry.prompt);
    const entries = (entry.prompt || '').trim() ? [entry, ...others].slice(0, this.MOST) : others;
    localStorage.setItem(this.KEY, JSON.stringify(entries));
    return this.choices(entries);
  },

  recall(names, [chosen, ...now]) {
    const entry = this.read()[Number(chosen)];
    return [this.show(), ...names.map((name, i) => (entry && name in entry ? entry[name] : now[i]))];
  },
};
