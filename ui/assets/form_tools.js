// Hides the settings that do not match what is typed, and marks those that differ from the preset. By rules of
// style, not by classes: most settings are rendered only when they are unfolded.
const search = element.querySelector('input');
const count = element.querySelector('.form-count');
const style = element.querySelector('style');
let changed = [];

const settings = () => props.value.settings;
const rule = (ids, text) => (ids.length ? ids.map((id) => '#' + id).join(', ') + ' {' + text + '}' : '');
const infos = (ids) => ids.map((id) => '#' + id + ' [data-testid=block-info]::after, #' + id + ' .label-text::after');

const matching = () => {
  const words = search.value.toLowerCase().split(' ').filter(Boolean);
  return settings().filter((one) => words.every((word) => one.text.includes(word)));
};

const draw = () => {
  const found = new Set(matching().map((one) => one.id));
  const hidden = settings().filter((one) => !found.has(one.id)).map((one) => one.id);
  const empty = props.value.groups.filter((group) => !group.settings.some((id) => found.has(id)));
  const mark = changed.length ? infos(changed).join(', ') + ' {content: " · changed"; color: var(--color-accent); font-weight: 600}' : '';
  style.textContent = [rule(hidden.concat(empty.map((group) => group.id)), 'display: none !important'), mark].join(' ');
  const said = [search.value ? found.size + ' found' : '', changed.length ? changed.length + ' changed' : ''];
  count.textContent = said.filter(Boolean).join(' · ');
};

// The fold is opened for what lies in it; the click is that of a person.
const unfold = () => {
  const inside = matching().filter((one) => one.folded);
  const first = search.value && inside.length && document.getElementById(inside[0].id);
  if (search.value && inside.length && !(first && first.offsetParent)) {
    document.querySelector('#loop-knobs > button').click();
  }
};

const compare = (event) => {
  const all = settings();
  changed = all.filter((one, i) => String(event.detail[i]) !== String(one.preset)).map((one) => one.id);
  draw();
};

search.addEventListener('input', () => {
  draw();
  clearTimeout(element.unfolding);
  element.unfolding = setTimeout(unfold, 300);
});
document.addEventListener('settings-changed', compare);
watch('value', draw);
draw();
