"""The settings of one experiment: their schema, their file, and what is wrong with them."""
