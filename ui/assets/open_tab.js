// Opens a tab as a click does, so that all who listen to the tabs hear of it.
() => {
  const tabs = [...document.querySelectorAll('#tabs button[role=tab]')];
  tabs.find((tab) => tab.innerText.trim() === 'NAME').click();
}
