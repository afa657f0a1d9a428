"""Each kind of line, its bytes, and what is not a line."""

import json
import math
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from fedtl.errors import (
    LedgerDamaged,
)
from fedtl.privacy import hash_chain as books
from fedtl.privacy.budget import Budget
from fedtl.privacy.ledger_lines import parse_line
from fedtl.privacy.ledger_reading import (
    verify_ledger,
)
from tests.privacy.ledger.ledgers import PLAN, ROUND, admitted, opened, run

LINES = [
    {"what": "opened", "epsilon": 9.0, "delta": 1e-5, "fingerprint": "aa"},
    {"what": "opened", "epsilon": 9.0, "delta": 1e-5, "fingerprint": "aa", "rows": 3, "kept": {"/rows": "f"}, "beside": {"b": 1}},
    {"what": "budget", "epsilon": 9.0, "delta": 1e-5},
    {"what": "changed", "before": "aa", "fingerprint": "bb"},
    {"what": "changed", "before": "aa", "fingerprint": "bb", "difference": "3 rows are new"},
    {"what": "confirmed", "fingerprint": "bb"},
    {"what": "confirmed", "fingerprint": "bb", "rows": 3, "kept": {"/rows": "f"}},
    {"what": "planned", "study": "a", "epsilon": 4.0, "delta": 1e-6, "events": [[4.0, 0.25, 8]]},
    {"what": "charged", "study": "a", "round": 1, "task": "t", "events": [[4.0, 0.25, 1]], "epsilon": 1.5},
    {"what": "stored", "study": "a", "round": 1, "reply": "f", "bytes": 5},
]  # fmt: skip
HEADER = {"chain": "scans", "number": 3, "at": "2026-11-26T01:00:00+00:00"}


@pytest.mark.parametrize("content", LINES, ids=lambda content: content["what"])
def test_line_is_read_and_written_back_unchanged(content):
    """Also lines that an earlier fedtl wrote with fewer fields."""
    line = parse_line(HEADER | content)
    assert line.as_json() == HEADER | content
    assert json.dumps(line.as_json(), sort_keys=True) == json.dumps(HEADER | content, sort_keys=True)
    with pytest.raises(ValidationError, match="frozen"):
        line.entry.what = "opened"


@pytest.mark.parametrize("content", LINES, ids=lambda content: content["what"])
def test_line_of_another_kind_or_with_other_fields_is_refused(content):
    some, *_ = content.keys() - {"what", "kept", "beside", "rows", "difference"}
    for wrong in (
        content | {"more": 1},
        content | {"what": "settled"},
        {key: value for key, value in content.items() if key != some},
        content | {some: {}},
    ):
        with pytest.raises(LedgerDamaged, match="line 3 of 'scans'"):
            parse_line(HEADER | wrong)


def test_the_bytes_of_a_ledger_are_those_of_earlier_versions(path, monkeypatch):
    """The last hashes were computed with commit ace3607, before lines had types: same lines, same stored row sets."""

    class Fixed(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2026, 11, 26, tzinfo=UTC)

    monkeypatch.setattr(books, "datetime", Fixed)
    monkeypatch.setattr(
        "fedtl.privacy.accounting.epsilon", lambda *_, **__: 1.5
    )  # whatever the library rounds to
    run(opened(path), "a", 1)
    opened(path, budget=Budget(12.0, 1e-5))
    changed = opened(path, fingerprint="bb", budget=Budget(12.0, 1e-5))
    changed.confirm("bb")
    changed.charge("a", 2, "task 2", ROUND, PLAN)
    admitted(path, "reports", "cc", Budget(4.2, 1e-6))
    assert verify_ledger(path) == {
        "scans": (8, "2cd25f14fb64ff0f6f36a27b3dcff8c1586dd9b4257b2e9cb92bcb7e473e69a4"),
        "reports": (1, "fd8e6299f696d35a382f9d67de96fa9791ec789de1d189fc7e207d76a6ff2856"),
    }


@pytest.mark.parametrize("line", [{}, {"what": "budget"}, HEADER, HEADER | {"number": "x"} | LINES[2]])
def test_content_that_is_not_a_line_is_refused(line):
    with pytest.raises(LedgerDamaged):
        parse_line(line)


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        ("planned", {"events": [[4.0, 0.25, -8]]}),
        ("planned", {"events": [[0.0, 0.25, 1]]}),
        ("planned", {"events": [[4.0, 1.5, 1]]}),
        ("planned", {"epsilon": -1.0}),
        ("charged", {"events": [[4.0, 0.25, -1]]}),
        ("charged", {"round": 0}),
    ],
)
def test_a_line_that_would_give_budget_back_is_refused(what, wrong):
    content = next(line for line in LINES if line["what"] == what)
    with pytest.raises(LedgerDamaged):
        parse_line(HEADER | content | wrong)


def test_values_that_are_not_finite_numbers_are_refused():
    for number in (math.nan, math.inf, "x", None):
        with pytest.raises(LedgerDamaged, match="epsilon"):
            parse_line(HEADER | LINES[2] | {"epsilon": number})
