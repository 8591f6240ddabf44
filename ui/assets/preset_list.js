// Rows of presets. Names and sentences come from files: they are inserted as text.
const host = element.querySelector('.presets');
const SHAPES = { true: '✓', false: '✗', null: '?' };
const CLASSES = { true: 'right', false: 'wrong', null: 'quiet' };

const cell = (className, text) => {
  const span = document.createElement('span');
  span.className = className;
  span.textContent = text;
  return span;
};

const choose = (name) => {
  if (name === (props.value || {}).chosen) return;
  props.value = { ...props.value, chosen: name };
  draw(); // only what the server sends is watched
  trigger('input');
};

const rowOf = (preset, chosen) => {
  const row = document.createElement('button');
  row.type = 'button';
  row.setAttribute('role', 'radio');
  row.setAttribute('aria-checked', String(preset.name === chosen));
  row.tabIndex = preset.name === chosen ? 0 : -1;
  row.dataset.name = preset.name;
  const title = cell('title', preset.label);
  title.append(cell('quiet pair', preset.pair));
  row.append(title, cell('task', preset.task), cell('size', preset.size), cell('needs', preset.needs));
  row.append(cell(`fit ${CLASSES[preset.fits]}`, `${SHAPES[preset.fits]} ${preset.why}`));
  row.addEventListener('click', () => choose(preset.name));
  return row;
};

const draw = () => {
  const { rows = [], chosen } = props.value || {};
  const focused = host.contains(document.activeElement);
  const top = host.scrollTop;
  host.replaceChildren(...rows.map((preset) => rowOf(preset, chosen)));
  host.scrollTop = top;
  const current = host.querySelector('[aria-checked=true]');
  if (!current && host.firstChild) host.firstChild.tabIndex = 0;
  if (focused && current) current.focus();
};

// As radio buttons do: arrows move the choice.
host.addEventListener('keydown', (event) => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  const rows = [...host.children];
  const next = rows[rows.indexOf(document.activeElement) + step];
  if (!step || !next) return;
  event.preventDefault();
  next.focus();
  choose(next.dataset.name);
});

watch('value', draw);
draw();
