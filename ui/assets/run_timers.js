// Runs the timer of the open tab alone; app.py puts in the names of the tabs that have one. It asks the page
// which tab is open: where tabs are opened quickly, Gradio drops events or repeats them without saying whose.
async () => {
  await new Promise((drawn) => setTimeout(drawn));
  const open = document.querySelector('#tabs button[role=tab][aria-selected=true]');
  return NAMES.map((name) => ({ __type__: 'update', active: open.innerText.trim() === name }));
}
