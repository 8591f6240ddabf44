// Esc stops the decode that Compare shows.
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  const stop = document.querySelector('#compare-stop');
  if (stop && !stop.disabled && stop.offsetParent) stop.click();
});

// Gradio reports a slider's `release` for the mouse only: make the keys count, too.
document.addEventListener('keyup', (event) => {
  const slider = event.target;
  if (!slider.matches || !slider.matches('input[type=range]')) return;
  if (/^(Arrow|Home|End|Page)/.test(event.key)) {
    slider.dispatchEvent(new PointerEvent('pointerup', { bubbles: true }));
  }
});

// Plotly is 5 MB: it is loaded once, when the first chart is drawn.
window.plotlyReady = () => {
  window.plotlyLoading ||= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = 'plotly.min.js';
    script.onload = () => resolve(window.Plotly);
    script.onerror = reject;
    document.head.appendChild(script);
  });
  return window.plotlyLoading;
};
