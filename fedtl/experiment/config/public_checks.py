"""Checks of ``data.public``: inputs that every silo and the server may see."""

import os.path
from collections.abc import Iterator

from fedtl.data.settings import ELSEWHERE, FILES, NOISE, PREPARED
from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.methods.public import needs_public

MAX_NOISE = 1_000_000


def public_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each entry that names nothing, or that another setting contradicts."""
    data = experiment.data
    for entry in data.public:
        yield from _of_entry(entry)
    others = {"data.silos": data.silos, "data.late": data.late, "data.unlabelled": data.unlabelled}
    for key, names in {**others, "model.pretrain_on": experiment.model.pretrain_on}.items():
        if both := sorted(set(data.public) & set(names)):
            yield f"silo {both[0]!r} is in data.public and in {key}; remove it from one of them"
    if data.public and data.scale == "dp":
        yield (
            'data.public and data.scale = "dp": the scale is released in training, and public inputs have none; set data.scale to a '
            "TOML file of constants"
        )
    yield from _of_method(experiment)


def _of_entry(entry: str) -> Iterator[str]:
    kind, colon, rest = entry.partition(":")
    if entry == ELSEWHERE:
        return
    if colon and kind not in (FILES, NOISE, PREPARED):
        yield f'data.public: {entry!r} must be the name of a silo, "{FILES}:PATH", "{PREPARED}:PATH" or "{NOISE}:N"'
    elif kind in (FILES, PREPARED) and colon and not (rest and os.path.exists(rest)):
        yield f"data.public: {rest or '(empty path)'} does not exist"
    elif kind == NOISE and colon and not (rest.isascii() and rest.isdigit() and 0 < int(rest) <= MAX_NOISE):
        yield f"data.public: {entry!r} must have a number of inputs from 1 to {MAX_NOISE:,} after {NOISE}:"


def _of_method(experiment: Experiment) -> Iterator[str]:
    try:
        needed = needs_public(method_of(experiment.method))
    except ConfigError:
        return  # the check of the method reports it
    if needed and not experiment.data.public:
        yield (
            f"method {experiment.method.name!r} distils on inputs that all may see; name them in data.public, for example a silo whose "
            "rows are public"
        )
