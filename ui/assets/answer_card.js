// One answer. What a model wrote goes in as text; card.html is what the server made of it, cleaned by nh3.
const find = (selector) => element.querySelector(selector);

// A long text that grows is appended to: replacing it would lay out all of it again.
const setText = (selector, text) => {
  const node = find(selector).firstChild;
  if (node && text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else find(selector).textContent = text;
};

// Rendered or as the model wrote it: one choice for all cards, kept in the browser.
const RAW = 'thinkswitch-raw-answers';
const isRaw = () => localStorage.getItem(RAW) === '1';

const showAnswer = (card) => {
  const node = find('.answer');
  // empty HTML counts: while the first formula is still open, its source must not flash up
  const rendered = typeof card.html === 'string' && !isRaw();
  node.classList.toggle('rendered', rendered);
  if (!rendered) setText('.answer', card.answer || '');
  else if (node.dataset.from !== card.html) node.innerHTML = card.html;
  if (rendered) node.dataset.from = card.html;
  else delete node.dataset.from;
  find('.view').textContent = isRaw() ? 'rendered' : 'raw';
  for (const button of element.querySelectorAll('header button')) button.hidden = !card.answer;
};

find('.view').addEventListener('click', () => {
  localStorage.setItem(RAW, isRaw() ? '0' : '1');
  window.dispatchEvent(new Event(RAW));
});
window.addEventListener(RAW, () => showAnswer(props.value || {}));

// What thinking costs: tokens of trace and answer as bars, on one scale for all cards.
const COST = 'thinkswitch-cost';
const drawCost = () => {
  const { tokens = 0, trace_tokens: ofTrace = 0 } = props.value || {};
  const all = [...document.querySelectorAll('.cost')].map((bar) => Number(bar.dataset.tokens || 0));
  const share = (count) => `${(100 * count) / Math.max(1, ...all)}%`;
  find('.of-trace').style.width = share(ofTrace);
  find('.of-answer').style.width = share(tokens - ofTrace);
};
window.addEventListener(COST, drawCost);

const copyByHand = (text) => {
  // on a plain http address of another machine there is no navigator.clipboard
  const area = document.createElement('textarea');
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
};

find('.copy').addEventListener('click', async () => {
  const text = (props.value || {}).answer || '';
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyByHand(text);
  find('.copy').textContent = 'copied';
  setTimeout(() => { find('.copy').textContent = 'copy'; }, 1200);
});

const LABELS = { '✓': 'right', '✗': 'wrong' };
let thinking = false;

const draw = () => {
  const card = props.value || {};
  const trace = find('details');
  const pre = find('pre');
  const atBottom = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 24;

  setText('.title', card.title || '');
  setText('.mark', card.mark || '');
  find('.mark').setAttribute('aria-label', LABELS[card.mark] || '');
  find('.mark').dataset.mark = LABELS[card.mark] || '';
  showAnswer(card);
  find('.answer').dataset.empty = card.thinking ? 'thinking …' : card.empty || '';
  setText('footer', card.foot || '');
  setText('summary', card.trace_title || 'trace');
  setText('pre', card.trace || '');
  trace.hidden = !card.trace;
  if (find('.cost').dataset.tokens !== String(card.tokens || 0)) {
    find('.cost').dataset.tokens = card.tokens || 0;
    window.dispatchEvent(new Event(COST));
  }
  if (card.edge) find('.card').style.setProperty('--edge', card.edge);

  // The trace is open while it is written and folds when it ends, unless the reader has toggled it since.
  if (!!card.thinking !== thinking) {
    thinking = !!card.thinking;
    trace.open = thinking;
  }
  if (thinking && atBottom) pre.scrollTop = pre.scrollHeight;
};

watch('value', draw);
draw();
