"""Where do rows come from, and how are they prepared? One file a source; registry.py is the table."""
