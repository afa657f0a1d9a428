"""The benchmark of a deployment: both contenders send the same tensors, and its verdicts. Times are not judged here."""

import io
import json
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedtl.models.registry import model_spec
from tests.real_processes import alive, wait

BENCH = Path(__file__).parents[2] / "simulations" / "bench"


@pytest.fixture
def deploy(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import deploy

    yield deploy
    for path in BENCH.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_flower_alone_sends_the_tensors_of_fedtl(deploy, monkeypatch):
    load = deploy.LOADS["tiny"]
    monkeypatch.setenv("FEDTL_BENCH", json.dumps({"model": load.model, "shape": load.shape}))
    monkeypatch.syspath_prepend(str(BENCH / "flower_app"))
    for name in [name for name in sys.modules if name == "clients" or name.startswith("clients.")]:
        monkeypatch.delitem(sys.modules, name)
    from clients.app import floats, make_model

    ours = model_spec("mlp", load.shape, seed=0).net(10).state_dict()
    shapes = sorted(tuple(tensor.shape) for tensor in ours.values() if tensor.is_floating_point())
    assert sorted(tuple(tensor.shape) for tensor in floats(make_model()).values()) == shapes
    for name in ("clients", "clients.app"):
        sys.modules.pop(name, None)


def test_a_bar_is_met_only_with_the_bits_of_the_simulation(deploy):
    measured = [
        deploy.Measured("tiny", "fedtl", [1.0, 2.0, 9.0], {}, True),
        deploy.Measured("tiny", "Flower alone", [8.0], {}),
        deploy.Measured("light", "fedtl", [1.0], {}, False),
        deploy.Measured("resnet18", "fedtl", [16.0], {}, True),
    ]
    cut_off = deploy.Measured("tiny", "fedtl", [1.0], {}, None, "ended after 9 s: 1 of 3 rounds")
    assert deploy.verdicts([cut_off])[0]["met"] is False
    assert deploy.verdicts([deploy.Measured("tiny", "fedtl", [], {}, None, "exit code 1")]) == []
    tiny, light, resnet = deploy.verdicts(measured)
    assert (tiny["seconds"], tiny["met"], tiny["ratio_to_flower"]) == (2.0, True, 0.25)
    assert (light["met"], light["ratio_to_flower"]) == (False, None)
    assert resnet["met"] is False


def test_nothing_is_concluded_on_a_loaded_machine(deploy):
    """But for the bits, which no load changes."""
    one = deploy.Measured("tiny", "fedtl", [1.0], {}, True, beside=1.2)
    loaded = replace(one, beside=1.3)
    (quiet,), (busy,) = deploy.verdicts([one]), deploy.verdicts([loaded])
    assert (quiet["met"], quiet["why"]) == (True, "")
    assert (busy["met"], busy["why"]) == (
        None,
        "floors side by side took 1.30 times as long as one, above 1.25",
    )
    assert deploy.verdicts([replace(loaded, same=False)])[0]["met"] is False
    ratios = {"mlp": 1.1, "convnet": 1.2}
    assert [bar.met for bar in deploy.bars.cluster(ratios, 1.2)] == [True, False]
    assert [bar.met for bar in deploy.bars.cluster(ratios, 1.3)] == [None, None]


def test_every_site_has_rows_of_its_own(deploy, tmp_path):
    load = deploy.LOADS["light"]
    deploy.write_rows(load, tmp_path / "rows")
    files = sorted((tmp_path / "rows").iterdir())
    assert [path.stem for path in files] == load.names()
    first, second = (np.load(path)["train_x"] for path in files[:2])
    assert first.shape == (load.rows, 8, 8, 1)
    assert not np.array_equal(first, second)


def test_the_app_of_flower_alone_can_be_packed(deploy, tmp_path):
    packed = deploy.deploy_flower._fab(tmp_path / "app")
    with zipfile.ZipFile(io.BytesIO(packed)) as fab:
        assert {"server/app.py", "clients/app.py", "pyproject.toml"} <= set(fab.namelist())


def test_a_measurement_ends_within_its_limit_with_all_that_it_started(deploy, tmp_path):
    """Also a process that is in a session of its own and ignores SIGTERM, whose parent has ended."""
    note = tmp_path / "pid"
    stubborn = f"trap '' TERM; echo $$ > {note}; while :; do sleep 0.05; done"
    began = time.monotonic()
    ended = deploy.run_limited(
        ["sh", "-c", f'setsid sh -c "{stubborn.replace("$", chr(92) + "$")}" & wait'], 0.5
    )
    assert ended.code is None
    assert ended.left in (1, 2)  # the process, and its sleep where it was seen
    assert time.monotonic() - began < 10
    wait("its end", lambda: not alive(int(note.read_text())), 5)
    assert deploy.run_limited(["sh", "-c", "exit 3"], 30.0).code == 3


def test_the_rounds_of_a_measurement_that_was_ended_are_kept(deploy, tmp_path):
    study = tmp_path / "federation" / "server" / "studies" / "bench"
    study.mkdir(parents=True)
    (study / "history.jsonl").write_text('{"seconds": 9.0}\n{"seconds": 1.5}\n')
    (tmp_path / "flower.json").write_text('{"seconds": [8.0], "replies": [3]}')
    assert [its.finished(tmp_path) for its in deploy.CONTENDERS.values()] == [[9.0, 1.5], [8.0]]


def test_the_table_in_the_readme_is_that_of_the_newest_file_and_earlier_medians_stand_below():
    text = (BENCH.parents[1] / "deploy" / "README.md").read_text()
    starts = {"tiny": "| tiny model, 3 ", "light": "| tiny model, 20 ", "resnet18": "| ResNet-18 ("}
    (table,) = (part for part in text.split("\n\n") if part.startswith("| load | fedtl"))
    (earlier,) = (part for part in text.split("\n\n") if part.startswith("The machine is a virtual one"))
    rows = {
        load: line.strip("| ").split(" | ")
        for load, start in starts.items()
        for line in table.splitlines()
        if line.startswith(start)
    }
    files = [json.loads(path.read_text()) for path in BENCH.glob("*-deploy*.json")]
    last = max(content["date"] for content in files)
    newest = sorted((one for one in files if one["date"] == last), key=lambda one: -len(one["bars"]))
    bars = {bar["load"]: bar for content in newest for bar in content["bars"]}  # what was repeated comes last
    for bar in bars.values():
        _, seconds, _, ratio, target = rows[bar["load"]]
        assert float(seconds.split()[0]) == pytest.approx(bar["seconds"], rel=0.005)
        known = bar["ratio_to_flower"]
        assert ratio == ("none" if known is None else f"{known:.2f}")
        assert target == f"{bar['bar']:g} s: {'met' if bar['met'] else 'not met'}"
    for bar in (bar for content in files if content["date"] != last for bar in content["bars"]):
        assert f"{bar['seconds']:.3g}" in earlier, bar
    for one in newest[0]["measured"]:
        if one["who"] == "fedtl":
            for mib in one["mib"].values():
                assert f"{mib:,.0f}" in text, (one["load"], mib)
