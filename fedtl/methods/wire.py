"""
How an update is sent: which of its tensors are compressed, into which parts, and what a silo adds to its next update.

With error feedback (Seide et al., 2014; Stich et al., 2018; Karimireddy et al., 2019) a silo sends C(d + e) for its update d
and keeps e' = d + e - C(d + e), so that over the rounds sum C = sum d - e. The silo computes C from the update that it would
otherwise send. Under differential privacy that update has its noise already, so C and e are functions of noisy tensors only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedtl.methods.codecs import WHOLE, BFloat16, Codec, Int8, Plain, Sign, TopK, smaller
from fedtl.methods.sets import RESIDUAL, set_of
from fedtl.models.roles import Role
from fedtl.models.state import State, first_not_finite

Shape = tuple[int, ...]
EXACT = frozenset(
    {Role.STATS, Role.COUNT, Role.EXTRA, Role.SUMMARY}
)  # roles that are not weights of the model


@dataclass(frozen=True)
class Wire:
    """``dtype``: one of ``WIRE_TYPES``. ``fraction``: of a tensor's values, those that "top-k" sends."""

    dtype: str = "float32"
    fraction: float = 0.01

    @property
    def codec(self) -> Codec:
        return TopK(self.fraction) if self.dtype == "top-k" else _CODECS[self.dtype]

    @property
    def compresses(self) -> bool:
        return self.dtype != "float32"


PLAIN = Plain()
_CODECS: Mapping[str, Codec] = {"float32": PLAIN, "bf16": BFloat16(), "int8": Int8(), "sign": Sign()}
WIRE_TYPES = ("float32", "bf16", "int8", "top-k", "sign")
FLOAT32 = Wire()


@dataclass(frozen=True)
class Encoding:
    """
    How an update is sent in one study. ``compressed``: the names of the tensors that ``codec`` writes, which are those that
    have a residual; it is in full that all others are sent.
    """

    codec: Codec = PLAIN
    compressed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, wire: Wire, roles: Mapping[str, Role]) -> "Encoding":
        """Return the encoding of a study. ``roles``: of every tensor of a silo, residuals included."""
        names = (name for name in roles if set_of(name) == RESIDUAL)
        return cls(wire.codec, frozenset(name.removeprefix(f"{RESIDUAL}/") for name in names))

    def layout(self, shared: State) -> dict[str, tuple[Shape, torch.dtype]]:
        """Return the shape and type of every tensor that is sent, by name. Of ``shared`` no value is read."""
        return {
            _part_name(name, own): form
            for name, tensor in sorted(shared.items())
            for own, form in self._codec(name, tensor).layout(tensor).items()
        }

    def encode(self, delta: State, residual: State) -> tuple[State, State]:
        """Return the tensors to send for an update, and the next residual. ``residual``: of the ``compressed`` names."""
        sent, kept = State(), dict(residual)
        for name, change in sorted(delta.items()):
            codec = self._codec(name, change)
            wanted = change + residual[name] if name in self.compressed else change
            parts = codec.encode(wanted)
            sent |= {_part_name(name, own): tensor for own, tensor in parts.items()}
            if name in self.compressed:
                kept[name] = wanted - codec.decode(parts, change)
        return sent, kept

    def decode(self, sent: State, shared: State) -> State:
        """
        Return the update that the sent tensors stand for, with the names, shapes and types of ``shared``. Raises ValueError
        where their names, shapes or types are not those of ``layout``, or a value is not finite, before anything as large as a
        peer claims is allocated.
        """
        check_layout(sent, self.layout(shared))
        delta = State()
        for name, tensor in sorted(shared.items()):
            codec = self._codec(name, tensor)
            parts = {own: sent[_part_name(name, own)] for own in codec.layout(tensor)}
            try:
                delta[name] = codec.decode(parts, tensor)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        if broken := first_not_finite({name: delta[name] for name in self.compressed & delta.keys()}):
            raise ValueError(f"{broken} is not finite")
        return delta

    def _codec(self, name: str, tensor: torch.Tensor) -> Codec:
        return smaller(self.codec, tensor) if name in self.compressed else PLAIN


def check_layout(sent: State, layout: Mapping[str, tuple[Shape, torch.dtype]]) -> None:
    """Raise ValueError unless the tensors have exactly these names, shapes and types, and only finite values."""
    if missing := sorted(layout.keys() - sent.keys()):
        raise ValueError(f"its update lacks {missing[0]!r}")
    if extra := sorted(sent.keys() - layout.keys()):
        raise ValueError(f"its update has {extra[0]!r}, which was not asked for")
    for name, tensor in sent.items():
        shape, dtype = layout[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not {shape} {dtype}")
    if broken := first_not_finite(sent):
        raise ValueError(f"{broken} is not finite")


def _part_name(name: str, own: str) -> str:
    return name if own == WHOLE else f"{own}/{name}"
