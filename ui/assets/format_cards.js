// Formats as cards. A click chooses in a hidden Radio, whose value is stored and sent as that of any other.
const host = element.querySelector('.formats');

const put = (parent, tag, name, text) => {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  parent.append(node);
  return node;
};

const choose = (name) => {
  const options = document.querySelectorAll('#export-format input');
  [...options].find((option) => option.value === name)?.click();
};

const draw = () => {
  const { cards = [], chosen } = props.value || {};
  host.replaceChildren(...cards.map((card) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.disabled = Boolean(card.reason);
    button.setAttribute('aria-pressed', String(card.name === chosen));
    const head = put(button, 'span', 'head', '');
    put(head, 'b', 'name', card.name);
    put(head, 'span', 'size', card.size);
    put(button, 'span', card.reason ? 'reason' : 'about', card.reason || card.about);
    button.addEventListener('click', () => choose(card.name));
    return button;
  }));
};

watch('value', draw);
draw();
