"""What is said of a training's progress, on a terminal and where there is none."""

import io
import os
import signal
import sys

import pytest
from rich.console import Console

from fedtl.cli import main, screen
from fedtl.cli.screen import Clock, duration, progress_bar


@pytest.fixture
def lines(monkeypatch):
    """The lines that are said, and a clock that stands still until it is set."""
    said, now = [], [100.0]
    monkeypatch.setattr(screen, "say", said.append)
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    return said, now


def test_a_line_a_round_with_the_time_left(lines):
    said, now = lines
    with progress_bar("fedavg", silent=False, pause=0, counted="round") as show:
        show(0, 4)
        for done in (1, 2, 3, 4):
            now[0] += 30
            show(done, 4)
        now[0] += 200
        show(1, 3, "each silo finishes its model")
    assert said == [
        "fedavg: round: 1 of 4 (30 s, about 90 s left)",
        "fedavg: round: 2 of 4 (60 s, about 60 s left)",
        "fedavg: round: 3 of 4 (90 s, about 30 s left)",
        "fedavg: round: 4 of 4 (2 min)",
        "fedavg: each silo finishes its model: 1 of 3 (0 s)",
    ]


def test_a_terminal_shows_the_time_left_too(lines, monkeypatch):
    """Of rounds and of a comparison's steps alike, and anew where another part begins."""
    said, now = lines
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None, emoji=False)
    monkeypatch.setattr(screen, "err_console", console)
    with progress_bar("compare: round", silent=False, pause=0) as show:
        for done, wanted in ((0, ""), (1, "about 90 s left"), (2, "about 60 s left"), (4, "")):
            show(done, 4)
            assert wanted in shown(console)
            assert ("left" in shown(console)) == bool(wanted)
            now[0] += 30
        show(1, 3, "each silo finishes its model")
        assert "each silo finishes its model" in shown(console)
    assert said == []


def shown(console):
    """What the terminal shows now of the bar."""
    console.file.truncate(0)
    console._live_stack[0].refresh()
    return console.file.getvalue()


def test_lines_keep_their_pause_and_a_silent_bar_says_nothing(lines):
    said, now = lines
    with progress_bar("audit", silent=False) as show, progress_bar("audit", silent=True, pause=0) as silent:
        for done in range(1, 31):
            now[0] += 1
            show(done, 30)
            silent(done, 30)
    assert [line.split(": ")[1].split(" (")[0] for line in said] == ["10 of 30", "20 of 30", "30 of 30"]


def test_a_resumed_run_is_as_slow_as_since_it_resumed():
    clock = Clock(0.0)
    assert clock.left(0, 100, 0.0) == 0
    assert clock.left(81, 100, 2.0) == 2 * 19
    assert clock.left(90, 100, 20.0) == 20


def test_the_start_of_a_long_comparison_is_not_taken_for_its_pace():
    """Two workers start for 9 s, and then do a part in 2 s each."""
    clock = Clock(0.0)
    assert clock.left(1, 702, 11.0) == 0
    assert clock.left(2, 702, 11.1) == 0
    assert clock.left(12, 702, 22.0) == pytest.approx(690)


def test_parts_that_end_together_are_not_taken_for_the_pace():
    """16 jobs of 600 s side by side, of 100, end half a second apart."""
    clock = Clock(0.0)
    for number in range(16):
        left = clock.left(number + 1, 100, 600 + number / 2)
    assert left == pytest.approx(607.5 / 16 * 84)


def test_durations():
    assert [duration(seconds) for seconds in (0, 99, 100, 3600, 7800)] == [
        *("0 s", "99 s", "2 min", "1 h 0 min", "2 h 10 min"),
    ]


def test_sigterm_ends_a_command_as_ctrl_c_does(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def app(**_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(sys, "argv", ["fedtl", "run"])
    try:
        with pytest.raises(SystemExit) as end:
            main.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 130


def test_a_text_is_printed_as_it_is(capsys):
    """Among others a fingerprint: rich has a picture for :CD: and a style for [red]."""
    text = "70:9C:CD:0B [red] :x:"
    screen.out_console.file, screen.err_console.file = sys.stdout, sys.stderr
    try:
        screen.print_line(text)
        screen.say(text)
        screen.print_entries(text, [{"name": "x", "about": ":CD:"}])
    finally:
        screen.out_console.file = screen.err_console.file = None
    said = capsys.readouterr()
    assert said.out.startswith(f"{text}\n")
    assert said.err == f"{text}\n"
    assert "  x  :CD:\n" in said.out


def test_an_entry_is_cut_on_a_terminal_alone(monkeypatch):
    entry = {"name": "a" * 30, "about": "b" * 30}
    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=24, color_system=None, force_terminal=terminal)
        monkeypatch.setattr(screen, "out_console", console)
        screen.print_entries("words", [entry])
        text = console.file.getvalue()
        assert ("…" in text) is terminal
        assert (text.count("b") == 30) is not terminal
