"""
What a steward signs, as plain values, and which change of each value is stricter and which is looser.

``SignedTerms`` holds everything on the page that a later edit of silo.toml, or another plan, could change. All of it is
written into the egress record when it is signed. In each round the same values are computed again from silo.toml and the
plan, and ``looser`` returns every value that is looser than signed. Names and order of the fields must not change, because
the hash of what was signed covers them: they are the names of fedtl 0.1.0, also where silo.toml has new ones. No torch here.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from pydantic import Field

from fedtl._util.settings import Settings
from fedtl.data.settings import RowSettings

Order = Callable[[Any, Any], bool]  # (signed, now): whether now is the same or stricter


def same(signed: Any, now: Any) -> bool:
    return bool(signed == now)


def at_most(signed: Any, now: Any) -> bool:
    return bool(now <= signed)


def at_least(signed: Any, now: Any) -> bool:
    return bool(now >= signed)


def within(signed: list[str], now: list[str]) -> bool:
    return set(now) <= set(signed)


def unit(signed: str, now: str) -> bool:
    """Protecting all rows that agree in a column is stricter than protecting a record; two columns cannot be compared."""
    return signed in ("record", now)


def present(signed: Any, now: Any) -> bool:
    """Training with differential privacy is stricter than without. Its values are compared one by one."""
    return signed is None or now is not None


@dataclass(frozen=True)
class Bound:
    """``key``: the name of the value in messages; for a setting of silo.toml, its key."""

    key: str
    stricter: Order


class PrivacyTerms(Settings):
    """
    ``epsilon``, ``delta``, ``rounds``: of one study. ``sample_rate`` and ``steps`` (in a round): the values for the site's
    own rows. The noise multiplier follows from these and from the approved code, and is not compared: at equal epsilon,
    fewer steps need less noise.
    """

    epsilon: Annotated[float, Bound("policy.privacy.epsilon", at_most)]
    delta: Annotated[float, Bound("policy.privacy.delta", at_most)]
    lifetime_epsilon: Annotated[float, Bound("policy.privacy.lifetime_epsilon", at_most)]
    lifetime_delta: Annotated[float, Bound("policy.privacy.lifetime_delta", at_most)]
    clip: Annotated[float, Bound("policy.privacy.clip", at_most)]
    unit: Annotated[str, Bound("policy.privacy.unit", unit)]
    sample_rate: Annotated[float, Bound("policy.privacy.sample_rate", at_most)]
    steps: Annotated[int, Bound("policy.privacy.steps", at_most)]
    rounds: Annotated[int, Bound("policy.privacy.rounds", at_most)]
    statistics: Annotated[str, Bound("policy.privacy.statistics", same)]


class DataTerms(RowSettings):
    """
    ``[data]`` of silo.toml. Every change is looser: a field without a Bound is compared by ``same``. ``scale_file``: the
    hash of the file of scaling constants, "" without one.
    """

    name: str
    silo: str
    split: Annotated[int, Bound("data.split_seed", same)]
    scale_file: Annotated[str, Bound("the file of data.scale", same)]


LATER_KEYS = (
    *("delimiter", "decimal", "encoding", "drop"),
    *("pixel_range", "pixel_bits", "slices", "manifest", "file_column"),
    *("sheet", "date_format", "time_zone"),
    "missing_labels",
    *("mask_values", "mask_void"),
)  # of [data], after fedtl 0.1.0


class SignedTerms(Settings):
    """
    ``records``: training rows, or units where the privacy unit is a column. ``metrics`` and ``rows``: which metrics leave,
    and whether the number of rows does, as the policy and the privacy settings together allow. ``verdict``: whether one word leaves after
    the last round, which says if joining helped. ``studies`` and ``until``:
    how many studies the approval is for, and its last day (UTC, YYYY-MM-DD).
    """

    privacy: Annotated[PrivacyTerms | None, Bound("[policy.privacy]", present)]
    site: Annotated[str, Bound("name", same)]
    server: Annotated[str, Bound("server", same)]
    plan: Annotated[str, Bound("the plan's hash", same)]
    manifest: Annotated[str, Bound("the hash of what leaves", same)]
    asked_by: Annotated[str, Bound("request.by", same)]
    purpose: Annotated[str, Bound("request.purpose", same)]
    method: Annotated[str, Bound("method.name", same)]
    model: Annotated[str, Bound("model.name", same)]
    rounds: Annotated[int, Bound("rounds", at_most)]
    silos: Annotated[int, Bound("minimum_silos", at_least)]
    studies: Annotated[int, Bound("studies", at_most), Field(ge=1)]
    until: Annotated[str, Bound("until", at_most), Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    roles: Annotated[list[str], Bound("policy.roles", within)]
    metrics: Annotated[list[str], Bound("policy.metrics", within)]
    bytes: Annotated[int, Bound("policy.max_bytes_per_round", at_most)]
    norm: Annotated[float, Bound("policy.max_update_norm", at_most)]
    rows: Annotated[bool, Bound("policy.share_row_count", at_most)]
    minimum_silos: Annotated[int, Bound("policy.minimum_silos", at_least)]
    columns: Annotated[list[str], Bound("columns", same)]
    classes: Annotated[list[str], Bound("classes", same)]
    records: Annotated[int, Bound("the number of records", at_most)]
    data: Annotated[DataTerms, Bound("data", lambda signed, now: True)]
    verdict: Annotated[bool, Bound("policy.verdict", at_most)] = False  # after fedtl 0.1.0

    @property
    def hash(self) -> str:
        """The hash of the terms, without keys that a later version added and that have their default."""
        plain = self.model_dump()
        for key in LATER_KEYS:
            if plain["data"][key] == DataTerms.model_fields[key].default:
                del plain["data"][key]
        if not self.verdict:
            del plain["verdict"]
        return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Difference:
    """A value that is looser than signed."""

    key: str
    signed: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: signed {_text(self.signed)}, now {_text(self.now)}"


def looser(signed: Settings, now: Settings) -> list[Difference]:
    """Return every value of ``now`` that is looser than in ``signed``. Both are of the same class."""
    return list(_looser(signed, now))


def _looser(signed: Settings, now: Settings) -> Iterator[Difference]:
    for name, field in type(signed).model_fields.items():
        bound = next(
            (mark for mark in field.metadata if isinstance(mark, Bound)), Bound(f"data.{name}", same)
        )
        before, after = getattr(signed, name), getattr(now, name)
        if not bound.stricter(before, after):
            yield Difference(bound.key, before, after)
        elif isinstance(before, Settings) and isinstance(after, Settings):
            yield from _looser(before, after)


def _text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case PrivacyTerms():
            return f"epsilon {value.epsilon:.4g}"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case dict():
            return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items()) or "none"
        case list():
            return ", ".join(map(str, value)) or "none"
        case _:
            return str(value) or "none"
