"""A pause grows with the time that was waited, within its limits."""

import pytest

from fedtl._util.pace import Pace


def test_a_result_is_seen_a_tenth_late_at_most_and_an_idle_process_looks_seldom():
    now = [100.0]
    pace = Pace(0.2, 2.0, lambda: now[0])
    found = []
    for waited in (0.0, 1.0, 5.0, 15.0, 1000.0):
        now[0] = 100.0 + waited
        found.append(pace.pause)
    assert found == pytest.approx([0.2, 0.2, 0.5, 1.5, 2.0])
    pace.restart()
    assert pace.pause == 0.2
