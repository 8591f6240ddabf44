const pre = element.querySelector('pre');

const draw = () => {
  pre.textContent = props.value || '';
  pre.scrollTop = pre.scrollHeight;
};

watch('value', draw);
draw();
