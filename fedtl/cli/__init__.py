"""The ``fedtl`` command: parses and prints."""
