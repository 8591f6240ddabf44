"""Any point of any round as ordinary weights that others can load."""
