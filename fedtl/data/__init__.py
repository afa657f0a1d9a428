"""Where do rows come from, and how are they prepared? One file per source; registry.py is the table."""
