"""One experiment: its settings, its file, and what is wrong with it."""
