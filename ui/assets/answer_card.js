// One answer. Everything a model wrote goes in as text, never as HTML.
const find = (selector) => element.querySelector(selector);

// A long text that grows is appended to: replacing it would lay out all of it again.
const setText = (selector, text) => {
  const node = find(selector).firstChild;
  if (node && text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else find(selector).textContent = text;
};

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
  setText('.answer', card.answer || '');
  find('.answer').dataset.empty = card.thinking ? 'thinking …' : card.empty || '';
  setText('footer', card.foot || '');
  setText('summary', card.trace_title || 'trace');
  setText('pre', card.trace || '');
  trace.hidden = !card.trace;
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
