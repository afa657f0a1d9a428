"""Lines of the egress record: each kind is written as before types, read back to the bit, and nothing else is accepted."""

import json

import pytest

from fedtl.deployment.site.egress_lines import (
    ApprovalWithdrawn,
    ChangeConfirmed,
    DatasetAdmitted,
    Disconnected,
    Malformed,
    PlanApproved,
    RoundRefused,
    StudyBegan,
    TaskReceived,
    UpdateSent,
    content_of,
    parse_line,
)
from fedtl.deployment.site.egress_log import EgressLog
from fedtl.errors import LedgerDamaged
from tests.deployment.site.raw_record import note

TENSORS = {"w": {"sha256": "00", "shape": [2, 3], "dtype": "float32"}}
ROWS = [{"name": "w", "role": "body", "shape": [2, 3], "dtype": "float32", "bytes": 24}]
APPROVAL = {"bundle": "b", "plan": "p", "manifest": "m", "code": "c"}
SENT = {
    "study": "s", "round": 3, "task": "t", "plan": "p", "manifest": "m", "private": False, "again": False,
    "weight": 1.0, "metrics": {"accuracy": 0.5}, "bytes": 24, "tensors": TENSORS,
}  # fmt: skip
# As fedtl wrote them before these types: kind, fields.
LINES = [
    (TaskReceived, {"study": "s", "round": 3, "task": "t", "plan": "p", "bytes": 24, "tensors": TENSORS}),
    (UpdateSent, SENT),
    (
        UpdateSent,
        {**SENT, "private": True, "dataset": "d", "number_of_units": "not said", "terms": {"rounds": 4}},
    ),
    (RoundRefused, {"code": "plan", "reason": "not approved"}),
    (RoundRefused, {"study": "s", "round": 3, "task": "t", "code": "plan", "reason": "not approved"}),
    (PlanApproved, {**APPROVAL, "tensors": ROWS}),
    (PlanApproved, {**APPROVAL, "terms": "h", "signed": {"rounds": 4}, "tensors": ROWS, "privacy": None}),
    (ApprovalWithdrawn, {"bundle": "b"}),
    (StudyBegan, {"study": "s", "plan": "p"}),
    (ChangeConfirmed, {"before": "x", "now": "y"}),
    (ChangeConfirmed, {"dataset": "d", "before": "x", "now": "y", "difference": "1 row more"}),
    (DatasetAdmitted, {"dataset": "d", "now": "y", "rows": 5, "beside": {"e": 1}}),
    (Disconnected, {"reason": "closed"}),
]


@pytest.mark.parametrize(("kind", "fields"), LINES)
def test_a_line_is_written_as_before_and_read_back(kind, fields):
    entry = kind(**fields)
    written = {"what": entry.what, **fields}
    assert json.dumps(content_of(entry), sort_keys=True) == json.dumps(written, sort_keys=True)
    header = {"chain": "site", "number": 7, "at": "2026-01-01"}
    line = parse_line(header | written)
    assert line.entry == entry
    assert json.dumps(line.as_json(), sort_keys=True) == json.dumps(header | written, sort_keys=True)


@pytest.mark.parametrize(
    "change",
    [
        {"round": "3"},
        {"round": None},
        {"private": "no"},
        {"secret": 1},
        {"what": "smuggled"},
        {"tensors": {"w": {}}},
    ],
    ids=str,
)
def test_anything_else_is_malformed(change):
    line = parse_line({"what": "sent", **SENT, **change})
    assert isinstance(line.entry, Malformed)
    assert "\n" not in line.entry.reason
    assert line.as_json()["study"] == "s"


def test_a_record_with_a_malformed_line_covers_nothing(tmp_path):
    """Its chain is intact, so only reading shows it; what needs the record is refused, and it can still be listed."""

    class Home:
        record = EgressLog(tmp_path / "record.sqlite", "site")

    Home.record.append(StudyBegan(study="s", plan="p"))
    note(Home, "sent", round=1)
    with pytest.raises(LedgerDamaged, match="line 2"):
        Home.record.lines()
    assert [line.number for line in Home.record.written()] == [1, 2]
