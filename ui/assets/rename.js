// Takes over a proposed name, unless the visitor has typed another one meanwhile or is about to.
(name, renaming) => {
  const field = document.querySelector("#export-folder textarea, #export-folder input");
  const isEditing = document.activeElement === field;
  return name === renaming.from && !isEditing ? renaming.to : name;
}
