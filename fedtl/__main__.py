"""``python -m fedtl`` is the ``fedtl`` command."""

from fedtl.cli import main

main()
