// Numbers a click, and tells how many frames of the spectrum are rendered.
(click, dots, ...others) => {
  window.clickNumber = (window.clickNumber || 0) + 1;
  return [window.clickNumber, ((dots || {}).frames || []).length, ...others];
}
