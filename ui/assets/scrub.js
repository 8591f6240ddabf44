// Dragging over a rendered spectrum shows its nearest frame, without asking the server.
(t, dots) => {
  const plot = document.querySelector('#compare-switch .js-plotly-plot');
  if (plot && window.Plotly) window.Plotly.relayout(plot, { 'shapes[0].x0': t, 'shapes[0].x1': t });
  const frames = (dots || {}).frames || [];
  const distance = (frame) => Math.abs(frame.t - t);
  const nearest = (a, b) => (distance(b) < distance(a) ? b : a);
  if (frames.length) window.show('compare-blend', frames.reduce(nearest));
  return [];
}
