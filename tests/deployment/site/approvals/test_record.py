"""What the record says about lines that no approval covered."""

from datetime import UTC, datetime, timedelta

from fedtl.deployment.site.covered import record_history
from fedtl.deployment.site.egress_lines import parse_lines
from fedtl.deployment.site.egress_log import verify_lines
from fedtl.deployment.site.uncovered import uncovered_lines
from fedtl.federation.policy import Code
from tests.deployment.site.raw_record import note
from tests.real_processes import fedtl_command


def noted(site, line, **changes):
    """Append a line to the record as a fedtl without checks would, and return the lines that are not covered."""
    kept = {key: value for key, value in line.items() if key not in ("chain", "number", "at", "what")}
    note(site.home, "sent", **{**kept, **changes})
    return uncovered_lines(parse_lines(site.lines()))


def test_verify_reports_each_line_that_no_approval_covered(bare, tmp_path):
    bare.ask(bare.task())
    sent = bare.lines()[-1]
    cases = {
        "round 1 had been answered before": {},
        "the approval was for 1 study and was used for s": {"study": "t", "round": 1},
        "the approval was for 4 rounds": {"round": 5},
        "no approval of its plan was in force": {"plan": "f" * 64},
        "head.weight is not on the approved manifest": {
            "round": 6,
            "tensors": {"head.weight": next(iter(sent["tensors"].values()))},
        },
        "it carried the metric 'auc', which was not signed": {"round": 7, "metrics": {"auc": 0.5}},
        "it does not state the terms in force": {"round": 8, "terms": None},
        "policy.max_update_norm: signed 1000, now 2000": {
            "round": 9,
            "terms": {**sent["terms"], "norm": 2000.0},
        },
    }
    for at, (reason, changes) in enumerate(cases.items(), 1):
        found = noted(bare, sent, **changes)
        assert any(text.startswith(f"line {sent['number'] + at}:") and reason in text for text in found), (
            reason,
            found,
        )
    path = tmp_path / "record.jsonl"
    fedtl_command("silo", "ledger", bare.home.path, "--export", path)
    for where in (bare.home.path, path):
        said = fedtl_command("silo", "verify", where, code=3).stderr
        for reason in cases:
            assert reason in said
        assert "an approval covered" not in said
    assert (
        uncovered_lines(parse_lines(verify_lines(path.read_text().partition("\n\n")[0].splitlines(), "x")))
        == found
    )


def test_verify_reports_an_update_without_the_signed_privacy(site):
    site.ask(site.task())
    sent = site.lines()[-1]
    found = noted(site, sent, round=2, private=False, weight=40.0, terms={**sent["terms"], "privacy": None})
    assert len(found) == 3
    for text, part in zip(
        found, ("without the differential privacy", "number of rows", "epsilon 3, now none"), strict=True
    ):
        assert part in text


def test_verify_reports_an_update_after_the_approval_ended(bare):
    bare.approve(until=(datetime.now(UTC).date() - timedelta(days=1)).isoformat())
    bare.refused(bare.task(), Code.PLAN, "the approval ended on")
    terms = record_history(parse_lines(bare.lines())).grants
    assert len(terms) == 1
    bare.approve()
    bare.ask(bare.task())
    sent = bare.lines()[-1]
    bare.approve(until=(datetime.now(UTC).date() - timedelta(days=1)).isoformat())
    assert "had ended on" in noted(bare, sent, round=2)[0]
    note(bare.home, "withdrawn", bundle="0" * 64)
    assert "no approval of" in noted(bare, sent, round=3)[-1]


def test_verify_reports_a_malformed_line(bare):
    note(bare.home, "sent", round=1)
    note(bare.home, "approved", plan="p", tensors=[7])
    note(bare.home, "withdrawn")
    found = uncovered_lines(parse_lines(bare.lines()))
    assert [text.split(" (")[0] for text in found] == [
        f"line {number} is not a line of a record" for number in (2, 3, 4)
    ]


def test_terms_that_do_not_match_their_hash_approve_nothing(site):
    line = next(each for each in site.lines() if each["what"] == "approved")
    kept = {key: value for key, value in line.items() if key not in ("chain", "number", "at", "what")}
    kept["signed"]["privacy"]["epsilon"] = 90.0
    note(site.home, "approved", **kept)
    site.refused(site.task(), Code.PLAN, "an earlier fedtl")
