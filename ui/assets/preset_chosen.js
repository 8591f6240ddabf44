// The list shows which preset is chosen, also when a reload brings it back.
(name, list) => [{ ...list, chosen: name }]
