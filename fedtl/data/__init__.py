"""Where examples come from, and what is done to them before a silo trains. One file a source; sources.py is the table."""
