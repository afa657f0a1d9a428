"""
What can stand in a line of the egress record: one frozen type for each kind of line, read by ``parse_line`` and written by
``content_of``.

A line on disk is one JSON object: the name of the chain, the line's number and time, ``what`` happened, and its fields.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedtl.results.comparison import Verdict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TensorHash(_Part):
    """One tensor of a message; never its values."""

    sha256: str
    shape: tuple[int, ...]
    dtype: str


class ManifestRow(_Part):
    """One tensor that was approved to leave in each round."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


class TaskReceived(_Part):
    """
    A message of the server. ``task``: its hash; ``plan``: the hash of the agreement. ``asked``: the question after the last round;
    not written for a round.
    """

    what: Literal["received"] = "received"
    study: str
    round: int
    task: str
    plan: str
    asked: Literal["verdict"] | None = None
    bytes: int
    tensors: dict[str, TensorHash]


class UpdateSent(_Part):
    """
    What left. ``again``: the same reply had left before. ``dataset``: the one it was charged to; without differential
    privacy, and in lines of an earlier fedtl, it is not there. ``terms``: those in force at that time.
    """

    what: Literal["sent"] = "sent"
    study: str
    round: int
    task: str
    plan: str
    manifest: str
    private: bool
    again: bool
    dataset: str | None = None
    number_of_units: str | None = None
    terms: dict[str, Any] | None = None  # fedtl 0.1.0 did not write it
    weight: float
    metrics: dict[str, float]
    bytes: int
    tensors: dict[str, TensorHash]


class VerdictSent(_Part):
    """
    After the last round of a study the site answered whether joining helped it. ``task``: the hash of the question. ``plan``,
    ``manifest``, ``terms``, ``again``: as in ``UpdateSent``.
    """

    what: Literal["verdict"] = "verdict"
    study: str
    round: int
    task: str
    plan: str
    manifest: str
    again: bool
    terms: dict[str, Any]
    verdict: Verdict


class RoundRefused(_Part):
    """A message that was refused. ``code``: what the server learnt. Without a study: it was not a task."""

    what: Literal["refused"] = "refused"
    study: str | None = None
    round: int | None = None
    task: str | None = None
    code: str
    reason: str


class PlanApproved(_Part):
    """An approval (``Approval``), with the signed terms in full. ``privacy``: the values that its page showed."""

    what: Literal["approved"] = "approved"
    bundle: str
    plan: str
    manifest: str
    code: str
    terms: str = ""  # fedtl 0.1.0 wrote no terms
    signed: dict[str, Any] | None = None
    tensors: tuple[ManifestRow, ...]
    privacy: dict[str, Any] | None = None


class ApprovalWithdrawn(_Part):
    what: Literal["withdrawn"] = "withdrawn"
    bundle: str


class StudyBegan(_Part):
    """The first round of a study under an approval."""

    what: Literal["began"] = "began"
    study: str
    plan: str


class ChangeConfirmed(_Part):
    """The steward confirmed changed rows. ``before`` and ``now``: fingerprints."""

    what: Literal["confirmed"] = "confirmed"
    dataset: str | None = None
    before: str
    now: str
    difference: str | None = None


class DatasetAdmitted(_Part):
    """The steward states that a dataset is about other people. ``beside``: how many rows it shares with each other one."""

    what: Literal["admitted"] = "admitted"
    dataset: str
    now: str
    rows: int
    beside: dict[str, int]


class Disconnected(_Part):
    """The connection to the server ended with an error."""

    what: Literal["disconnected"] = "disconnected"
    reason: str


Entry = (
    TaskReceived
    | UpdateSent
    | VerdictSent
    | RoundRefused
    | PlanApproved
    | ApprovalWithdrawn
    | StudyBegan
    | ChangeConfirmed
    | DatasetAdmitted
    | Disconnected
)
_ENTRIES: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="what")])


@dataclass(frozen=True)
class Malformed:
    """A line of none of these kinds, or with other fields. A chain shows only that lines were not altered later."""

    content: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class EgressLine:
    """A parsed line. ``number``: from 1, in its chain; ``at``: when it was written, in UTC."""

    chain: str
    number: int
    at: str
    entry: Entry | Malformed

    def as_json(self) -> dict[str, Any]:
        """Return the line as it stands in the file."""
        header = {"chain": self.chain, "number": self.number, "at": self.at}
        return header | (
            dict(self.entry.content) if isinstance(self.entry, Malformed) else content_of(self.entry)
        )


def parse_line(line: Mapping[str, Any]) -> EgressLine:
    """Return a line of an intact chain, which has a number and a time."""
    content = dict(line)
    header = str(content.pop("chain", "")), int(content.pop("number", 0)), str(content.pop("at", ""))
    entry: Entry | Malformed
    try:
        entry = _ENTRIES.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        entry = Malformed(content, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200])
    return EgressLine(*header, entry)


def parse_lines(lines: Iterable[Mapping[str, Any]]) -> list[EgressLine]:
    return [parse_line(line) for line in lines]


def content_of(entry: Entry) -> dict[str, Any]:
    """Return what stands in the line. Fields that were never set, such as those of later versions, are left out."""
    return {"what": entry.what} | entry.model_dump(mode="json", exclude_unset=True)
