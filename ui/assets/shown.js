// A stream of the page brings values without an event of Gradio: see screen.js. It needs a `draw` before it.
window.addEventListener('show', ({ detail }) => {
  if (element.closest('[id]:not([id^=html-])')?.id !== detail.elemId) return;
  props.value = detail.value;
  draw(); // Gradio's `watch` tells of values from the server only
});
