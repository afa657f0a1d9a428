"""The benchmark: its contenders do the same work, and its table and file come out. Times are not judged here."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "simulations" / "bench"


@pytest.fixture
def parts(monkeypatch):
    """The benchmark's own modules, which are scripts beside each other and no package."""
    monkeypatch.syspath_prepend(str(BENCH))
    import bars
    import bench_tables
    import floor
    import loads
    import machine
    import measure
    import private_step
    import with_fedtl

    modules = (bars, bench_tables, floor, loads, machine, measure, private_step, with_fedtl)
    yield {module.__name__: module for module in modules}
    for path in BENCH.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_the_floor_and_fedtl_compute_the_same_model(parts, model):
    """One batch holds all rows, so the order in which they were drawn is the same for both."""
    load = parts["loads"].Load("same", model, (1, 8, 8), silos=3, rows=16, val_rows=4, batch=16, lr=0.1)
    plain = parts["floor"].Floor(load, parts["floor"].FAST)
    before = dict(plain.shared)
    fedtl = parts["with_fedtl"].Fedtl(load, workers=1)
    for _ in range(2):
        wanted, found = plain.round(), fedtl.round()
    assert found.keys() == {name for name, tensor in wanted.items() if tensor.is_floating_point()}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name].contiguous(), atol=1e-5, rtol=1e-4, msg=name)
        assert not torch.equal(tensor, before[name])


def test_every_process_has_the_same_rows_and_first_weights(parts):
    load = parts["loads"].LOADS["mlp"]
    first, again = load.data("silo-0003"), load.data("silo-0003")
    assert torch.equal(first.train.x, again.train.x)
    assert not torch.equal(first.train.x, load.data("silo-0002").train.x)
    one, other = load.model_spec().net(10).state_dict(), load.model_spec().net(10).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_ratio_of_contenders_in_turn_is_computed_turn_by_turn(parts):
    times = parts["measure"].Times
    floor = [1.0, 5.0, 1.0]
    slow, fast = times([2.0, 20.0, 4.0], floor, in_turn=True), times([1.0, 10.0, 1.0], floor, in_turn=True)
    assert slow.over(fast) == 2
    assert fast.to_floor == 1


def test_a_block_is_compared_with_the_floor_of_the_same_moment(parts):
    times = parts["measure"].Times
    fast = times([2.0, 4.0], [1.0, 2.0], in_turn=True)
    block = times([60.0, 80.0], [10.0, 10.0], in_turn=False)  # while the machine was ten times as slow
    assert block.to_floor == 7
    assert block.over(fast) == 3.5


def test_bars_are_judged_for_the_contenders_that_ran(parts):
    bars, times = parts["bars"], parts["measure"].Times
    taken = {
        bars.FLOOR: times([1.0], [1.0], True),
        bars.fedtl(1): times([1.1], [1.0], True),
        bars.fedtl(2): times([0.5], [1.0], True),
    }
    verdicts = bars.verdicts("convnet", taken, workers=2)
    assert [(its.who, round(its.value, 2), its.met) for its in verdicts] == [
        ("fedtl, 1 worker", 1.1, False),
        ("fedtl, 1 worker", 2.2, True),
    ]
    assert "at most 1.05 x floor" in verdicts[0].claim


@pytest.mark.parametrize(("beside", "met"), [(1.25, True), (1.26, None)])
def test_nothing_is_concluded_on_a_loaded_machine(parts, beside, met):
    """Neither where a contender says it, nor where it was measured before and after; a bar that is missed is no exception."""
    bars, tables, times = parts["bars"], parts["bench_tables"], parts["measure"].Times
    both = {bars.FLOOR: times([1.0], [1.0], True), bars.fedtl(1): times([1.0], [1.0], True)}
    crowded = {**both, bars.CEILING: times([beside], [1.0], True)}
    missed = {**crowded, bars.fedtl(1): times([2.0], [1.0], True)}
    start = {bars.HELP: times([0.3], [0.3], True)}
    (fast,), (slow,) = bars.verdicts("mlp", crowded, 2), bars.verdicts("mlp", missed, 2)
    (helped,) = bars.verdicts(bars.START, start, 2, beside)
    assert [fast.met, slow.met, helped.met] == [met, met and False, met]
    said = tables._judged(vars(slow))
    assert ("NOT MET" in said) == (met is not None)
    assert ("not concluded: floors side by side" in said) == (met is None)


def test_the_part_of_the_start_has_no_floor_and_is_judged_from_a_file_too(parts):
    """Its bars are seconds of new processes."""
    bars = parts["bars"]
    stored = {
        bars.HELP: {"seconds": [0.5, 0.3], "in_turn": True},
        bars.RUN: {"seconds": [2.0, 2.2], "in_turn": True},
    }
    met = {one.who: one.met for one in bars.verdicts(bars.START, bars.read_times(stored), 2, 1.0)}
    assert met == {bars.HELP: True, bars.RUN: True}


def test_the_bars_are_those_that_were_asked_for(parts):
    bars = parts["bars"]
    claims = {(bar.load, bar.claim) for bar in bars.bars(2)}
    assert {
        ("mlp", "fedtl, 1 worker takes at most 1.05 x floor"),
        ("mlp", "fedtl, 2 workers takes at most 0.6 x floor"),
        ("resnet18", "fedtl, 2 workers takes at most 0.58 x floor"),
        *((load, "pfl, best case takes at least 1 x fedtl, 2 workers") for load in ("mlp", "resnet18")),
        ("start", "fedtl run digits, to the first round takes at most 2.5 s"),
        ("start", "fedtl --help takes at most 0.4 s"),
    } <= claims
    assert bars.STEPS.keys() == parts["private_step"].STEP_LOADS.keys()


def test_a_file_says_which_code_was_measured(parts, tmp_path):
    machine = parts["machine"]
    assert machine.code(tmp_path) == {"commit": None, "changed": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "code.py").write_text("1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    (tmp_path / "result.json").write_text("{}\n")
    assert machine.code(tmp_path) == {"commit": commit.strip(), "changed": False}
    (tmp_path / "new.py").write_text("2\n")
    assert machine.code(tmp_path)["changed"] is True


def test_a_block_that_fails_is_named_and_does_not_end_the_run(parts):
    measure = parts["measure"]

    class Instant:
        def round(self):
            pass

    blocks = [measure.Block("broken", [sys.executable, "-c", "raise SystemExit(3)"])]
    times, failed = measure.side_by_side(
        {"one": Instant()}, blocks, repeats=3, floor="one", say=lambda text: None
    )
    assert failed == {"broken": "failed with exit code 3"}
    assert len(times["one"].seconds) == 3


def test_many_silos_are_judged_by_time_and_memory_per_silo(parts):
    def row(silos, ms, mib):
        return {
            "silos": silos,
            "who": "one",
            "ms_per_silo_and_round": ms,
            "ms_each_turn": [ms, 5 * ms, ms],
            "mib_in_rounds": mib,
            "kib_local": 10.0,
        }

    failed = {"silos": 5000, "who": "one", "failed": "killed"}
    slower, larger = parts["bars"].crowd(
        [row(1000, 2.4, 300.0), failed, row(10, 2.0, 200.0), row(100, 9.0, 0.0)]
    )
    assert (slower.value, slower.met) == (1.2, False)
    assert larger.value == pytest.approx(100 * 1024 / 990)
    assert larger.met is False
    assert "at most 76.0" in larger.claim
    assert [its.met for its in parts["bars"].crowd([row(10, 2.0, 200.0), row(1000, 2.1, 270.0)])] == [
        True
    ] * 2


def test_private_steps_have_a_fast_way(parts):
    """Making a contender raises RuntimeError where book-keeping does not agree with autograd."""
    steps = parts["private_step"]
    for load in steps.STEP_LOADS.values():
        small = replace(load, rows=4, steps=1)
        for one in steps.contenders(small).values() if load.model != steps.RESNET else ():
            one.round()


@pytest.mark.nightly
def test_quick_runs_end_to_end(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, str(BENCH / "bench.py"), "--quick", "--only", "mlp,start,silos", "--no-flower"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "skipped: no --pfl-python given" in re.sub(r"\s+", " ", done.stdout)
    text = out.read_text()
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text
    result = json.loads(text)
    load = result["loads"]["mlp"]
    assert set(load["contenders"]) == {
        *(
            "floor",
            "floor, naive memory format",
            "floor, as many at once as workers",
            "fedtl, 1 worker",
            "fedtl, 2 workers",
        ),
        "fedtl, stacked",
        "fedtl, stacked, 2 workers",
    }
    assert all(len(its["seconds"]) == 2 and its["median"] > 0 for its in load["contenders"].values())
    assert load["skipped"].keys() == {"Flower", "pfl", "NVIDIA FLARE"}
    assert {bar["load"] for bar in result["bars"]} == {"mlp", "start"}
    assert result["machine"].keys() >= {"commit", "changed"}
    assert [(row["silos"], row["who"]) for row in result["silos"]] == [
        (4, "fedtl, 1 worker"),
        (4, "fedtl, 2 workers"),
        (4, "fedtl, stacked"),
    ]
    assert all(row["rounds_per_second"] > 0 and row["mib_peak"] > 0 for row in result["silos"])
