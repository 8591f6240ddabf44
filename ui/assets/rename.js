// Takes over a proposed name, unless the visitor has typed another one meanwhile.
(name, renaming) => {
  return name === renaming.from ? renaming.to : name;
}
