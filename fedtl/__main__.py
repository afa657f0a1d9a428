"""``python -m fedtl`` runs the ``fedtl`` command."""

from fedtl.cli.main import main

main()
