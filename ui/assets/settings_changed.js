// Tells the form's tools what the settings are now, whoever has changed them.
(...values) => {
  document.dispatchEvent(new CustomEvent('settings-changed', { detail: values }));
  return [];
}
