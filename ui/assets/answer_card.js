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
  const node = find('.card > .answer');
  // empty HTML counts: while the first formula is still open, its source must not flash up
  const rendered = typeof card.html === 'string' && !isRaw();
  node.classList.toggle('rendered', rendered);
  if (!rendered) setText('.card > .answer', card.answer || '');
  else if (node.dataset.from !== card.html) node.innerHTML = card.html;
  if (rendered) node.dataset.from = card.html;
  else delete node.dataset.from;
  find('.view').textContent = isRaw() ? 'rendered' : 'raw';
  for (const button of element.querySelectorAll('header button')) button.hidden = !card.answer;
};

// Earlier turns of the conversation: each question with this column's answer.
let turnsShown = '';
const showTurns = (turns) => {
  const shown = JSON.stringify([turns, isRaw()]);
  if (shown === turnsShown) return;
  turnsShown = shown;
  const node = (name, text) => Object.assign(document.createElement('div'), { className: name, textContent: text });
  find('.turns').replaceChildren(...turns.flatMap((turn) => {
    const answer = node('answer', turn.answer || 'no answer');
    if (turn.answer && !isRaw()) {
      answer.innerHTML = turn.html;
      answer.classList.add('rendered');
    }
    return [node('question', turn.prompt), answer];
  }));
};

find('.view').addEventListener('click', () => {
  localStorage.setItem(RAW, isRaw() ? '0' : '1');
  window.dispatchEvent(new Event(RAW));
});
window.addEventListener(RAW, () => {
  showAnswer(props.value || {});
  showTurns((props.value || {}).turns || []);
});

// What thinking costs: tokens of trace and answer as bars, on one scale for all cards.
const COST = 'thinkswitch-cost';
const drawCost = () => {
  const { tokens = 0, trace_tokens: ofTrace = 0 } = props.value || {};
  const seen = [...document.querySelectorAll('.cost')].filter((bar) => bar.offsetParent);
  const all = seen.map((bar) => Number(bar.dataset.tokens || 0));
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
let wanted = null;
find('summary').addEventListener('click', () => { wanted = !find('details').open; });

const draw = () => {
  const card = props.value || {};
  const trace = find('details');
  const pre = find('pre');
  const atBottom = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 24;

  setText('.title', card.title || '');
  setText('.mark', card.mark || '');
  find('.mark').setAttribute('aria-label', LABELS[card.mark] || '');
  find('.mark').dataset.mark = LABELS[card.mark] || '';
  showTurns(card.turns || []);
  showAnswer(card);
  find('.card > .answer').dataset.empty = card.thinking ? 'thinking …' : card.empty || '';
  setText('footer', card.foot || '');
  setText('summary', card.trace_title || 'trace');
  setText('pre', card.trace || '');
  trace.hidden = !card.trace;
  if (find('.cost').dataset.tokens !== String(card.tokens || 0)) {
    find('.cost').dataset.tokens = card.tokens || 0;
    window.dispatchEvent(new Event(COST));
  }
  if (card.edge) find('.card').style.setProperty('--edge', card.edge);

  // The trace is open while it is written and folds when it ends. A reader who has toggled one has decided.
  thinking = !!card.thinking;
  trace.open = wanted ?? thinking;
  if (thinking && atBottom) pre.scrollTop = pre.scrollHeight;
};

watch('value', draw);
draw();
