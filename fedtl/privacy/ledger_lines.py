"""
What can stand in a line of a ledger: one frozen type for each kind of line, read by ``parse_line`` and written by ``append``.

A line on disk is one JSON object: the chain's name, the line's number and time, ``what`` happened, and its fields.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedtl.errors import LedgerDamaged
from fedtl.messages import SpendEvent
from fedtl.privacy.hash_chain import ChainLine, WritableChain

Noise = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Steps = Annotated[int, Field(ge=1)]
Cost = Annotated[float, Field(ge=0)]  # an epsilon or a delta
EventRows = tuple[tuple[Noise, Rate, Steps], ...]  # noise multiplier, sample rate and steps of each event


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Opened(_Entry):
    """
    The first line of a dataset: its lifetime budget and its rows. ``kept``: hashes of the row sets that are stored with the lines.
    ``beside``: for a further dataset, how many of its rows are also in each dataset that was opened before.
    """

    what: Literal["opened"] = "opened"
    epsilon: Cost
    delta: Cost
    fingerprint: str
    rows: int | None = None  # an earlier fedtl wrote neither this nor the row sets
    kept: dict[str, str] | None = None
    beside: dict[str, int] | None = None


class BudgetChanged(_Entry):
    """The lifetime budget from here on."""

    what: Literal["budget"] = "budget"
    epsilon: Cost
    delta: Cost


class RowsChanged(_Entry):
    """A round was asked for on rows that differ from the last confirmed ones, whose fingerprint is ``before``."""

    what: Literal["changed"] = "changed"
    before: str
    fingerprint: str
    difference: str | None = None  # an earlier fedtl did not write it


class RowsConfirmed(_Entry):
    """The steward confirmed changed rows."""

    what: Literal["confirmed"] = "confirmed"
    fingerprint: str
    rows: int | None = None
    kept: dict[str, str] | None = None


class StudyPlanned(_Entry):
    """A study took its whole plan from the budget."""

    what: Literal["planned"] = "planned"
    study: str
    epsilon: Cost
    delta: Cost
    events: EventRows


class RoundCharged(_Entry):
    """What one round releases. ``task``: a hash; ``epsilon``: what the study's rounds cost so far."""

    what: Literal["charged"] = "charged"
    study: str
    round: int = Field(ge=1)
    task: str
    events: EventRows
    epsilon: Cost


class ReplyStored(_Entry):
    """The reply to the last charged round is stored with the lines. ``reply``: its hash; ``bytes``: its size."""

    what: Literal["stored"] = "stored"
    study: str
    round: int = Field(ge=1)
    reply: str
    bytes: int


Entry = Opened | BudgetChanged | RowsChanged | RowsConfirmed | StudyPlanned | RoundCharged | ReplyStored
_ENTRIES: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="what")])


@dataclass(frozen=True)
class LedgerLine:
    """A parsed line of a ledger. ``number``: from 1, in its chain; ``at``: when it was written, in UTC."""

    chain: str
    number: int
    at: str
    entry: Entry

    def as_json(self) -> ChainLine:
        """Return the line as it stands in the file."""
        header = {"chain": self.chain, "number": self.number, "at": self.at}
        return header | _content(self.entry)


def parse_line(line: Mapping[str, Any]) -> LedgerLine:
    """Raise LedgerDamaged for a line that is not one of the kinds above, or that has other fields."""
    try:
        content = dict(line)
        header = str(content.pop("chain")), int(content.pop("number")), str(content.pop("at"))
        return LedgerLine(*header, _ENTRIES.validate_python(content))
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerDamaged(
            f"line {line.get('number')} of {line.get('chain')!r} is not a line of a privacy ledger "
            f"({_reason(error)}); if a newer fedtl wrote it, update fedtl"
        ) from error


def parse_lines(lines: Iterable[Mapping[str, Any]]) -> list[LedgerLine]:
    return [parse_line(line) for line in lines]


def append(chain: WritableChain, entry: Entry) -> None:
    """Write one line at the end of a chain."""
    chain.append(**_content(entry))


def event_rows(events: Sequence[SpendEvent]) -> EventRows:
    return tuple(
        (float(event.noise_multiplier), float(event.sample_rate), int(event.steps)) for event in events
    )


def spend_events(rows: EventRows) -> list[SpendEvent]:
    return [SpendEvent(*row) for row in rows]


def _content(entry: Entry) -> ChainLine:
    """Optional fields that an earlier fedtl did not write, or that were never set, are left out."""
    return entry.model_dump(mode="json", exclude_none=True)


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
