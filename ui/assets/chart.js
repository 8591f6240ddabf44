// One lasting node: `Plotly.react` on it keeps zoom and hover when new points arrive.
const host = element.querySelector('.chart');
const frame = element.querySelector('.chart-frame');

const isDark = () => document.body.classList.contains('dark') || !!document.querySelector('.dark');

const isFull = () => document.fullscreenElement === frame;

// Read from the back of a room: as high as the screen, with larger words.
const enlarge = (layout) => {
  layout.height = window.innerHeight - 16;
  layout.font.size = 18;
  layout.margin = { ...layout.margin, t: 72, l: 80, r: Math.max(80, layout.margin.r), b: Math.max(120, layout.margin.b) };
  if (layout.title) layout.title.font = { ...layout.title.font, size: 24 };
  if (layout.legend) layout.legend.font = { ...layout.legend.font, size: 18 };
};

const clear = () => {
  if (!host.data) return;
  window.Plotly.purge(host);
  host.classList.remove('js-plotly-plot');
};

const draw = async () => {
  if (!props.value) {
    clear();
    return;
  }
  const figure = JSON.parse(props.value);
  const plotly = await window.plotlyReady();
  figure.layout.font = { ...figure.layout.font, color: isDark() ? '#c9ced6' : '#3c4654' };
  const slider = document.querySelector(figure.layout.meta?.slider);
  if (slider) Object.assign(figure.layout.shapes[0], { x0: Number(slider.value), x1: Number(slider.value) });
  if (isFull()) enlarge(figure.layout);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  await plotly.react(host, figure.data, figure.layout, config);
  host.removeAllListeners('plotly_click'); // it is drawn anew with each message
  host.on('plotly_click', choose);
};

// A click on a point that has a value of its own is a `select`.
const choose = ({ points }) => {
  const { customdata: value, pointIndex: index } = points[0];
  if (value) trigger('select', { index, value });
};

const resize = () => {
  if (host.classList.contains('js-plotly-plot')) window.Plotly.Plots.resize(host);
};

watch('value', draw);
draw();
document.addEventListener('themechange', draw);
new ResizeObserver(resize).observe(element);
