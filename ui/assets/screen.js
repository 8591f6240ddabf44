// What Compare shows comes as a stream of its own: Gradio's events cost the browser 100 ms each, whatever
// they carry, and the machine that draws them is the one that decodes. See screen_stream.py.
let stream = null;
let again = false; // a click came while a stream was open, which may have ended at the server already

// The page's own components listen for this event: see shown.js.
window.show = (elemId, value) => {
  window.dispatchEvent(new CustomEvent('show', { detail: { elemId, value } }));
};

const receive = ({ parts = {}, stoppable, warned }) => {
  Object.entries(parts).forEach(([elemId, value]) => window.show(elemId, value));
  const stop = document.querySelector('#compare-stop');
  if (stop) stop.disabled = !stoppable; // seen missing once, at the end of a page
  if (warned) document.querySelector('#pulse-warnings').click();
};

// Open the stream of this page (Gradio's session hash); it ends when everything that was asked is answered.
window.followScreen = (page) => {
  again = stream !== null;
  if (again && stream.readyState !== EventSource.CLOSED) return;
  again = false;
  stream = new EventSource(`screen?page=${encodeURIComponent(page)}`);
  stream.onmessage = ({ data }) => receive(JSON.parse(data));
  stream.addEventListener('end', () => {
    stream.close();
    stream = null;
    if (again) window.followScreen(page);
  });
};
