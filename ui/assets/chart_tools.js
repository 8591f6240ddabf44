// What the tools of a chart do; it follows chart.js, which has `host`, `frame` and `draw`.
const save = (address, ending) => {
  const link = document.createElement('a');
  link.href = address;
  link.download = (element.closest('[id]:not([id^=html-])')?.id || 'chart') + ending;
  link.click();
};

const saveImage = async () => {
  const behind = getComputedStyle(document.body).backgroundColor;
  const layout = { ...host.layout, paper_bgcolor: behind, plot_bgcolor: behind };
  const size = { width: host.clientWidth, height: host.clientHeight };
  save(await window.Plotly.toImage({ data: host.data, layout }, { format: 'png', scale: 2, ...size }), '.png');
};

// Plotly holds names as HTML. A spreadsheet takes a text that begins with one of these for a formula.
const plain = (html) => new DOMParser().parseFromString(html, 'text/html').documentElement.textContent;
const cell = (content) => {
  const text = String(content ?? '');
  const safe = /^[=+@-]/.test(text) && Number.isNaN(Number(text)) ? "'" + text : text;
  return /[",;\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
};

const rowsOf = (line) => {
  const series = plain(line.name || '');
  if (line.z) return line.z.flatMap((row, i) => [...row].map((z, j) => [plain(String(line.x[j])), line.y[i], z]));
  return [...line.x].map((x, i) => [series, x, line.y[i]]);
};

const saveTable = () => {
  const lines = host.data.filter((line) => line.hoverinfo !== 'skip');
  const head = lines[0]?.z ? ['module', 'layer', 'number'] : ['series', 'x', 'y'];
  const rows = [head, ...lines.flatMap(rowsOf).filter((row) => row[1] !== null)];
  const text = rows.map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';
  const address = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
  save(address, '.csv');
  setTimeout(() => URL.revokeObjectURL(address), 10000);
};

const toggleFull = () => (isFull() ? document.exitFullscreen() : frame.requestFullscreen());

const tools = { image: saveImage, table: saveTable, full: toggleFull };
frame.querySelectorAll('.chart-tools button').forEach((button) => {
  button.addEventListener('click', () => tools[button.dataset.do]());
});
frame.addEventListener('fullscreenchange', draw);
