// The value is HTML that the server has escaped (see MessageBox in components.py).
const message = element.querySelector('.message');

const draw = () => {
  message.innerHTML = props.value || '';
};

watch('value', draw);
draw();
