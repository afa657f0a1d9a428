"""The Python API: what scripts and notebooks import from ``fedtl``. Raises fedtl.errors; prints nothing unless asked."""
