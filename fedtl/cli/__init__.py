"""The ``fedtl`` command, a file for each kind of question."""
