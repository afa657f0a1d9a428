"""Settings of a small run."""

SMALL = ["--set", "rounds=2", "--set", "data.limit=40", "--set", "engine.name=serial"]
