"""
Sets of tensors by name: a silo's model, the model as it was received, and what a method keeps in addition.

In a state that crosses or is kept, the model's tensors have their own names, a slot's are "slot/name", and a summary is
"summary/name". The library's names have no slash.
"""

from collections.abc import Iterable, Mapping

from fedtl.methods.codecs import PARTS
from fedtl.models.state import State

MODEL = "model"  # what a silo trains
RECEIVED = (
    "received"  # the model at the start of the round: received shared tensors, and the silo's local ones
)
SHARED = "shared"  # the received shared tensors of the model only
START = "start"  # the model that training started from, where a term needs it
SUMMARY = "summary"
RESIDUAL = "residual"  # the slot with what compression left out of the updates so far (``methods.wire``)
RESERVED = PARTS | {MODEL, RECEIVED, SHARED, START, SUMMARY}

Sets = Mapping[str, State]


def model_part(state: State) -> State:
    """Return the model's tensors of a state."""
    return {name: tensor for name, tensor in state.items() if "/" not in name}


def part(state: State, name: str) -> State:
    """Return the tensors of a slot, or the summaries, by their names in it."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def as_part(name: str, tensors: State) -> State:
    """Return a slot's tensors, or the summaries, by their names in a state. Undoes ``part``."""
    return {f"{name}/{key}": tensor for key, tensor in tensors.items()}


def set_of(name: str) -> str:
    """Return the set that a tensor of a state belongs to: MODEL, SUMMARY or a slot's name."""
    above, slash, _ = name.partition("/")
    return above if slash else MODEL


def check_names(names: Iterable[str], what: str) -> None:
    """Raise ValueError where a name is used twice, is reserved, or has a slash."""
    seen: set[str] = set()
    for name in names:
        if name in seen or name in RESERVED or "/" in name or not name:
            reason = "is used twice" if name in seen else "is reserved, or is not a valid name"
            raise ValueError(f"{what} {name!r} {reason}; rename one of them")
        seen.add(name)
