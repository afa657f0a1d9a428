"""``python -m fedtl`` is the ``fedtl`` command."""

from fedtl.cli.main import main

main()
