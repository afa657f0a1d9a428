"""Warnings that are repeated once a day."""

import logging

from fedtl.deployment.certificates import MIN_DAYS
from fedtl.deployment.coordinator import status
from fedtl.deployment.daily import DAY_SECONDS, DailyWarnings


def test_a_warning_comes_once_a_day_and_not_at_once(caplog):
    now = [100.0]
    warn = DailyWarnings(lambda: [f"at {now[0]:.0f}"], lambda: now[0])
    for seconds in (0, DAY_SECONDS - 1, 1, 5, DAY_SECONDS):
        now[0] += seconds
        warn()
    assert caplog.messages == [f"at {100 + DAY_SECONDS:.0f}", f"at {105 + 2 * DAY_SECONDS:.0f}"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_only_a_certificate_that_ends_soon_is_repeated(monkeypatch, tmp_path):
    days = {"server.pem": 29.0, "ca.crt": 300.0}
    monkeypatch.setattr(status, "days_left", lambda path: days[path.name])
    assert len(status.certificate_lines(tmp_path)) == 2
    (line,) = status.certificate_lines(tmp_path, within=MIN_DAYS)
    assert "29 days" in line
    assert "renew it" in line
