"""``fedtl watch``: what it shows of a folder that another process writes."""

import json
import math
import os
import sys
from dataclasses import replace

import pytest

from fedtl._util.records import from_plain
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.watched import histories, look
from fedtl.federation.round_log import RoundLog
from fedtl.report.events import RoundEvents, scalars
from fedtl.report.live_table import MAX_SILOS, WIDTH, bars, live_line, live_table
from fedtl.report.metrics_lines import MetricsFile
from fedtl.results.run import HistoryLine, MetricsLine
from tests.commands import fedtl


def line(number, accuracy, left_out=None, seconds=2.0):
    silos = {name: {"accuracy": value, "loss": 1.0} for name, value in accuracy.items()}
    return HistoryLine(number, seconds, silos, left_out or {}, 10, 10)


def written(path, *lines):
    RunFolder.create(path, load_experiment("digits", ["rounds=4"]))
    for one in lines:
        RoundLog(path).append(one)
    return path


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], ""),
        ([0.5, 0.5], "▁▁"),
        ([0.0, 0.5, 1.0], "▁▅█"),
        ([1.0, math.nan, 0.0], "█ ▁"),
        ([math.nan], " "),
        (range(2 * WIDTH), bars(range(1, 2 * WIDTH, 2))),
    ],
)
def test_bars(values, wanted):
    assert bars(values) == wanted
    assert len(bars(values)) <= WIDTH


def test_the_line_says_how_long_it_may_take():
    lines = [
        line(1, {"a": 0.5, "b": 0.7}, seconds=3.0),
        line(2, {"a": 0.6}, {"b": "late"}, 1.0),
        line(3, {"a": 0.25}),
    ]
    assert (
        live_line("run", 9, "accuracy", lines)
        == "run: round 3 of 9, mean accuracy (%) 25.0, 2 s a round, about 12 s left"
    )
    assert live_line("run", 2, "accuracy", lines[:2]).endswith("3 s a round, left out: b")
    assert "0 of 9" in live_line("run", 9, "accuracy", [])


def test_a_silo_that_was_left_out_keeps_its_last_value_and_says_why():
    lines = [line(1, {"a": 0.5, "b": 0.75}), line(2, {"a": 0.6}, {"b": "late"})]
    table = live_table("accuracy", lines)
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [["a", "b"], ["60.0", "75.0"], ["▁█", "▁ "], ["", "1 round; in 2: late"]]
    many = live_table("accuracy", [line(1, {f"s{i:03}": 0.5 for i in range(MAX_SILOS + 2)})])
    assert (many.row_count, many.caption) == (MAX_SILOS, "and 2 silos more")


def test_of_a_comparison_the_run_that_wrote_last_is_shown(tmp_path):
    folder = written(tmp_path / "comparison")
    one = written(folder / "runs" / "local-seed0", line(1, {"a": 0.5}))
    other = written(folder / "runs" / "fedtl-seed0", line(1, {"a": 0.5}))
    os.utime(one / "history.jsonl", ns=(0, 0))
    assert look(folder).path == other
    os.utime(other / "history.jsonl", ns=(0, -1))
    assert look(folder).path == one
    with pytest.raises(ConfigError, match="not a run folder"):
        look(tmp_path)


def test_without_a_terminal_there_is_a_line_a_state_until_the_run_ends(tmp_path):
    run = written(tmp_path / "run", line(1, {"a": 0.5}), line(4, {"a": 0.75}))
    shown = fedtl("watch", run, "--once")
    assert "▁█" in shown.stdout
    (run / "result.json").write_text("{}")
    ended = fedtl("watch", run, "--every", "0.1")
    assert (ended.returncode, ended.stdout.count("\n")) == (0, 1)
    assert "round 4 of 4" in ended.stdout
    assert fedtl("watch", tmp_path).returncode == 2


def curves_of(folder):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = event_accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.slow
def test_tensorboard_reads_back_every_round_once(tmp_path):
    first = line(1, {"a": 0.25, "b": 0.75}, seconds=3.0)
    run = written(tmp_path / "run", first)
    log = tmp_path / "log"

    with RoundEvents(log) as events:
        for _ in range(2):  # two looks at the same rounds
            for name, lines in histories(run):
                events.write(name, lines)
    assert curves_of(log / "run")["accuracy/b"] == [(1, 0.75)]
    RoundLog(run).append(line(2, {"a": 0.5}, {"b": "late"}))
    assert fedtl("watch", run, "--once", "--tensorboard", log).returncode == 0
    curves = curves_of(log / "run")
    assert curves["accuracy/a"] == [(1, 0.25), (2, 0.5)]
    assert curves["accuracy/b"] == [(1, 0.75)]
    assert curves["accuracy/mean"] == [(1, 0.5), (2, 0.5)]
    assert curves["loss/mean"] == [(1, 1.0), (2, 1.0)]
    assert curves["round/seconds"] == [(1, 3.0), (2, 2.0)]
    assert curves["round/silos left out"] == [(1, 0.0), (2, 1.0)]
    assert curves["round/bytes from silos"] == [(1, 10.0), (2, 10.0)]


@pytest.mark.slow
def test_rounds_written_in_the_same_second_by_a_smaller_process_id_are_the_later_ones(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    for rounds in ([line(1, {"a": 0.25})], [line(1, {"a": 0.25}), line(2, {"a": 0.5})]):
        with RoundEvents(tmp_path) as events:
            events.write("run", rounds)
        monkeypatch.setattr(
            "os.getpid", lambda: 1
        )  # names of files have it after the second, and are compared as text
    assert curves_of(tmp_path / "run")["accuracy/a"] == [(1, 0.25), (2, 0.5)]


def test_metrics_are_a_line_a_silo_a_round_of_every_run(tmp_path):
    folder, file = written(tmp_path / "both"), tmp_path / "new" / "metrics.jsonl"
    first = line(1, {"a": 0.5, "b": 0.25}, {"c": "late"})
    one = written(folder / "runs" / "fedtl-seed0", replace(first, weights={"a": 7.0}, norms={"a": 0.125}))
    written(folder / "runs" / "local-seed0", line(1, {"a": 0.75}))
    silo_a = {"run": "fedtl-seed0", "round": 1, "silo": "a", "seconds": 2.0, "accuracy": 0.5, "loss": 1.0}
    wanted = [
        silo_a | {"weight": 7.0, "norm": 0.125},
        silo_a | {"silo": "b", "accuracy": 0.25},
        {"run": "fedtl-seed0", "round": 1, "silo": "c", "seconds": 2.0, "left_out": "late"},
        silo_a | {"run": "local-seed0", "accuracy": 0.75},
    ]

    def read():
        return [json.loads(text) for text in file.read_text().splitlines()]

    with MetricsFile(file) as metrics:
        for _ in range(2):  # two looks at the same rounds
            for name, lines in histories(folder):
                metrics.write(name, lines)
        assert read() == wanted
        RoundLog(one).append(line(2, {"a": 1.0}))
        for name, lines in histories(folder):
            metrics.write(name, lines)
        assert read() == [*wanted, silo_a | {"round": 2, "accuracy": 1.0}]
    assert fedtl("watch", folder, "--once", "--metrics", file).returncode == 0  # replaces the file
    assert sorted(read(), key=str) == sorted([*wanted, silo_a | {"round": 2, "accuracy": 1.0}], key=str)
    for text in file.read_text().splitlines():
        from_plain(MetricsLine, json.loads(text))


@pytest.mark.parametrize("content", ['{"round": 1, "seconds": 2.0}\n', "silo,accuracy\n", '{"silo": "a"'])
def test_metrics_do_not_replace_another_file(content, tmp_path):
    run = written(tmp_path / "run", line(1, {"a": 0.5}))
    other = tmp_path / "other.jsonl"
    other.write_text(content)
    for file, shown in ((other, content), (run / "history.jsonl", (run / "history.jsonl").read_text())):
        with pytest.raises(ConfigError, match="not written by --metrics"):
            MetricsFile(file)
        assert file.read_text() == shown


def test_each_run_of_a_comparison_has_its_curves(tmp_path):
    folder = written(tmp_path / "both")
    for name, value in (("local-seed0", 0.5), ("fedtl-seed0", 0.75)):
        written(folder / "runs" / name, line(1, {"a": value}))
    assert {name: dict(scalars(lines[0]))["accuracy/a"] for name, lines in histories(folder)} == {
        "local-seed0": 0.5,
        "fedtl-seed0": 0.75,
    }


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"fedtl\[tensorboard\]"):
        RoundEvents(tmp_path)
