"""A site with hours starts no training outside them, charges nothing, and says so."""

from datetime import datetime, time

import pytest

from fedtl.deployment.site import hours
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.hours import Hours
from fedtl.errors import ConfigError
from fedtl.federation.policy import Code
from fedtl.messages import Update
from tests.deployment.site.sites import PRIVATE, Site, same
from tests.real_processes import Federation


@pytest.mark.parametrize("text", ["20:00-06:00", "06:00-20:00", "00:00-12:30"])
def test_hours_contain_their_start_and_not_their_end(text):
    """Compared with every minute of the day, counted from the start."""
    (h1, m1), (h2, m2) = (map(int, part.split(":")) for part in text.split("-"))
    length = (60 * (h2 - h1) + m2 - m1) % 1440
    for minute in range(1440):
        at = (60 * h1 + m1 + minute) % 1440
        assert Hours.parse(text).contain(time(*divmod(at, 60))) == (minute < length)


@pytest.mark.parametrize(
    "text", ["20:00", "20-06", "24:00-06:00", "20:00-20:00", "8:00-9:00", "20:00-06:00 "]
)
def test_other_texts_are_refused_with_the_settings(text, tmp_path):
    Home.create(tmp_path / "home", "plain", "localhost:1")
    Federation.change(tmp_path / "home" / "silo.toml", hours=text)
    with pytest.raises(ConfigError, match="hours"):
        Home.open(tmp_path / "home")


def at(monkeypatch, clock):
    class Clock(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.fromisoformat(f"2026-11-26 {clock}")

    monkeypatch.setattr(hours, "datetime", Clock)


@pytest.mark.slow
def test_outside_its_hours_a_site_repeats_a_reply_and_starts_no_training(tmp_path, monkeypatch):
    private = {"policy__privacy": PRIVATE, "policy__metrics": [], "policy__share_row_count": False}
    site = Site(tmp_path, dp_ready=True, hours="20:00-06:00", **private)
    at(monkeypatch, "12:00")
    site.refused(site.task(), Code.HOURS, "it is 12:00, and this site trains 20:00-06:00")
    assert not site.home.ledger.exists()
    at(monkeypatch, "23:30")
    update = site.ask(site.task())
    assert isinstance(update, Update)
    at(monkeypatch, "06:00")
    assert same(site.ask(site.task()).delta, update.delta)
    site.refused(site.task(2), Code.HOURS, "it is 06:00")
