// Asks once a second whether there is news, and presses the button that fetches it: see pulse.py. It also
// presses it twice after every event of Gradio, whose answer may wait for the next one.
const PULSE_MS = 1000;
const PRESSES = 2;
let seen = null;
let presses = PRESSES; // for the events of opening
let pressing = false;

const fetchNow = window.fetch;
window.fetch = (...call) => {
  const address = String(call[0]?.url ?? call[0]);
  if (address.includes('/queue/join') && !pressing) presses = PRESSES;
  if (address.includes('/queue/join')) pressing = false;
  return fetchNow(...call);
};

const beat = async () => {
  const button = document.querySelector('#pulse');
  try {
    const { version } = await (await fetchNow('pulse')).json();
    if (button && (version !== seen || presses > 0)) {
      presses = version !== seen ? 1 : presses - 1;
      seen = version;
      pressing = true;
      button.click();
    }
  } catch { /* the server is away; Gradio says so */ }
  setTimeout(beat, PULSE_MS);
};
setTimeout(beat, PULSE_MS);
