// Stores what differs from the values that the page was built with. settings_store.py puts them in.
(...values) => {
  const first = FIRST;
  const changed = {};
  Object.keys(first).forEach((name, i) => {
    if (JSON.stringify(values[i]) !== JSON.stringify(first[name])) changed[name] = values[i];
  });
  return [{ changed }];
}
