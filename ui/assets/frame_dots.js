// The frames of a rendered spectrum on the slider's axis: round is right, square is wrong, filled has thought.
const FRAME_MS = 450;
const COLOURS = { '✓': 'var(--right)', '✗': 'var(--wrong)' };
const WORDS = { '✓': ', right', '✗': ', wrong' };
const find = (selector) => element.querySelector(selector);
const slider = () => document.querySelector('#compare-t input[type=range]');
let timer = 0;

const frames = () => (props.value || {}).frames || [];

const moveTo = (t, release) => {
  slider().value = t;
  slider().dispatchEvent(new Event('input', { bubbles: true }));
  if (release) slider().dispatchEvent(new PointerEvent('pointerup', { bubbles: true }));
  mark();
};

const mark = () => {
  if (!slider()) return;
  const t = Number(slider().value);
  const nearest = frames().reduce((a, b) => (Math.abs(b.t - t) < Math.abs(a.t - t) ? b : a), { t: Infinity });
  for (const dot of find('.axis').children) dot.classList.toggle('current', Number(dot.dataset.t) === nearest.t);
};

const stop = () => {
  clearInterval(timer);
  timer = 0;
  find('.play').textContent = '▶';
};

const play = () => {
  if (timer) {
    stop();
    return;
  }
  let next = 0;
  const step = () => {
    const frame = frames()[next];
    if (!frame) return stop();
    next += 1;
    moveTo(frame.t, next === frames().length);
    if (next === frames().length) stop();
  };
  find('.play').textContent = '⏸';
  timer = setInterval(step, FRAME_MS);
  step();
};

const draw = () => {
  stop();
  find('.dots').hidden = !frames().length;
  find('.axis').replaceChildren(...frames().map((frame) => {
    const dot = document.createElement('button');
    dot.type = 'button';
    dot.dataset.t = frame.t;
    dot.style.setProperty('--t', frame.t);
    dot.style.setProperty('--dot', COLOURS[frame.mark] || 'var(--body-text-color-subdued)');
    dot.classList.toggle('thought', Boolean(frame.trace));
    dot.classList.toggle('wrong', frame.mark === '✗');
    const label = `t = ${frame.t}${WORDS[frame.mark] || ''}${frame.trace ? ', thought' : ''}`;
    dot.title = label;
    dot.setAttribute('aria-label', label);
    dot.addEventListener('click', () => moveTo(frame.t, true));
    return dot;
  }));
  mark();
};

find('.play').addEventListener('click', play);
document.addEventListener('input', (event) => { if (event.target === slider()) mark(); });
document.addEventListener('keydown', (event) => {
  const typing = event.target.matches?.('input:not([type=range]), textarea, button, [contenteditable]');
  if (event.key !== ' ' || typing || find('.dots').hidden || !element.offsetParent) return;
  event.preventDefault();
  play();
});

watch('value', draw);
draw();
