"""A clock that is set is told from one that runs or is corrected."""

from fedtl._util.clock import ClockJumps, jump_text


def test_a_clock_that_runs_or_is_corrected_has_not_been_set():
    now = {"wall": 1.8e9, "steady": 100.0}
    jumps = ClockJumps(lambda: now["wall"], lambda: now["steady"])
    for clock in now:
        now[clock] += 86_400
    assert jumps.since() == 0.0
    now["wall"] += 2.0
    assert jumps.since() == 0.0
    now["wall"] += 3598.0
    assert jumps.since() == 3600.0
    assert jump_text(jumps.since()) == "set forward by 3600 s"
    now["wall"] -= 7200.0
    assert jump_text(jumps.since()) == "set back by 3600 s"
