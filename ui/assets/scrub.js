// Dragging over a rendered spectrum shows its nearest frame, without asking the server.
(t, film, shown) => {
  const plot = document.querySelector('#compare-switch .js-plotly-plot');
  if (plot && window.Plotly) window.Plotly.relayout(plot, { 'shapes[0].x0': t, 'shapes[0].x1': t });
  if (!film || !film.length) return shown;
  const distance = (frame) => Math.abs(frame.t - t);
  return film.reduce((nearest, frame) => (distance(frame) < distance(nearest) ? frame : nearest));
}
