"""What ``fedtl silo watch`` prints and ``log.jsonl`` has: each line of the record once. The site's figures."""

import logging
import os

from fedtl.deployment.site.egress_lines import Disconnected, RoundRefused
from fedtl.deployment.site.figures import site_metrics
from fedtl.deployment.site.follow import RecordWatch, follow_record
from fedtl.deployment.site.home import Home
from tests.real_processes import Federation


def later(home):
    """Move the file's time on: two writes can fall into one tick of the clock."""
    path = home.record.book.path
    os.utime(path, ns=(path.stat().st_mtime_ns + 10**7,) * 2)


def test_lines_are_followed_from_the_last_ones_on(tmp_path):
    home = Home.create(tmp_path / "home", "here", "localhost:1")
    for number in range(3):
        home.record.append(Disconnected(reason=f"old {number}"))
    asked = []

    def wait():
        asked.append(1)
        if len(asked) == 2:
            home.record.append(RoundRefused(study="s", round=4, code="plan", reason="other terms"))
            later(home)
        assert len(asked) < 5

    lines = follow_record(home, 1, wait)
    assert next(lines).entry.reason == "old 2"
    assert next(lines).entry.reason == "other terms"
    assert len(asked) == 2


def test_new_lines_are_logged_with_their_fields(tmp_path, caplog):
    home = Home.create(tmp_path / "home", "here", "localhost:1")
    watch = RecordWatch(home)
    caplog.set_level(logging.INFO, "fedtl")
    watch()
    home.record.append(RoundRefused(study="s", round=4, code="plan", reason="other terms"))
    watch()
    watch()
    (record,) = caplog.records
    assert record.getMessage() == "refused s round 4: other terms"
    assert record.fields == {"event": "refused", "study": "s", "round": 4, "code": "plan"}
    assert record.levelname == "WARNING"
    home.record.book.tip.write_text("nonsense")
    home.record.book.path.touch()
    watch()
    assert caplog.records[-1].levelname == "ERROR"


def test_the_figures_of_a_site(tmp_path):
    home = Home.create(tmp_path / "home", "here", "localhost:1")
    Federation.change(home.path / "silo.toml", policy__privacy={"epsilon": 1.0, "lifetime_epsilon": 4.0})
    home = Home.open(home.path)
    home.record.append(RoundRefused(study="s", round=4, code="plan", reason="other terms"))
    found = {metric.name: metric.values[0] for metric in site_metrics(home) if metric.values}
    assert (found["refusals_total"].value, found["updates_total"].value) == (1, 0)
    assert (found["epsilon_left"].value, found["epsilon_left"].labels) == (4.0, {"dataset": "here"})
    assert found["last_contact_seconds"].value > 1.7e9
