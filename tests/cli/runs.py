"""Settings of a small run."""

from tests.experiments import ROUNDS_ONLY

SMALL = ["--set", "rounds=2", "--set", "data.limit=40", "--set", "engine.name=serial"]
SMALL += [word for setting in ROUNDS_ONLY for word in ("--set", setting)]
