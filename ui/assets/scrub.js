// Dragging over a rendered spectrum shows its nearest frame, without asking the server.
(t, frames) => {
  const plot = document.querySelector('#compare-switch .js-plotly-plot');
  if (plot && window.Plotly) window.Plotly.relayout(plot, { 'shapes[0].x0': t, 'shapes[0].x1': t });
  // Without frames the card stays as it is: put back, it would replace a text that has arrived meanwhile.
  if (!frames || !frames.length) return { __type__: 'update' };
  const distance = (frame) => Math.abs(frame.t - t);
  return frames.reduce((nearest, frame) => (distance(frame) < distance(nearest) ? frame : nearest));
}
