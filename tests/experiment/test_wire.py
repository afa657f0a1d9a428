"""Compressed updates in experiments: what is refused, which columns a comparison has, what they save and cost, and what is shown."""

import json

import numpy as np
import pytest

from fedtl._util.records import from_plain
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.lint.dry_run import examine
from fedtl.experiment.plan import experiment_plan
from fedtl.experiment.study import build
from fedtl.federation.recorder import read_transcript
from fedtl.report.wire_tables import wire_table
from fedtl.results.comparison import Comparison
from fedtl.simulation.shared_store import temporary_store
from tests.experiment.runs import do, small
from tests.experiment.test_compare import finished, of, runs, summary, two  # noqa: F401
from tests.report.readers import printed


def test_a_fraction_belongs_to_top_k():
    with pytest.raises(ConfigError, match="wire.fraction"):
        load_experiment("digits", ["wire.fraction=0.1"])
    load_experiment("digits", ["wire.fraction=0.1", "compare.wire=['top-k']"])
    with pytest.raises(ConfigError, match="wire.dtype"):
        load_experiment("digits", ["wire.dtype=int4"])


@pytest.mark.parametrize(
    ("setting", "match"), [("engine.stack=3", "engine.stack"), ("method.name=ifca", "pick one")]
)
def test_what_cannot_send_compressed_updates_is_refused(setting, match):
    with temporary_store() as store, pytest.raises(ConfigError, match=match):
        build(small("wire.dtype=int8", setting), store, store)


def test_each_method_that_sends_weights_has_a_column_for_each_form():
    methods = "compare.methods=['local','fedavg','fedproto']"
    labels = [column.label for column in of(methods, "compare.wire=['int8','top-k']", "wire.fraction=0.2")]
    forms = ["fedavg", "fedavg, int8", "fedavg, top-k"]
    assert [label for label in labels if label.startswith(("local", "constant", "fedavg"))] == [
        "local",
        "constant",
        *forms,
    ]
    columns = {column.label: column.experiment.wire for column in of(methods, "wire.dtype=sign")}
    assert (columns["fedavg"].dtype, columns["fedavg, float32"].dtype) == ("sign", "float32")
    assert "local" in columns
    assert "local, float32" not in columns


def test_bytes_saved_and_accuracy_lost(runs, tmp_path):  # noqa: F811
    rng = np.random.default_rng(1)
    good = {
        name: {"accuracy": 1.0, "loss": 0.0} for name in ("a", "b")
    }  # best on validation, and never taken
    runs["fedavg, int8"] = [
        finished(tmp_path / f"int8-{seed}", {"a": 0.8, "b": 0.58}, good, rng) for seed in (0, 1)
    ]
    for folder in runs["fedavg, int8"]:
        path = folder.path / "result.json"
        result = json.loads(path.read_text()) | {"wire": "int8", "bytes_up": 250, "bytes_full": 1000}
        path.write_text(json.dumps(result))
    said = summary(two("compare.wire=['int8']"), runs)
    (cost,) = said["wire"].values()
    assert list(said["wire"]) == ["fedavg, int8"]
    assert (cost["form"], cost["in_full"], cost["bytes_up"], cost["bytes_full"]) == (
        "int8",
        "fedavg",
        250,
        1000,
    )
    assert cost["gain"]["mean"] == pytest.approx((0.8 - 0.9 + 0.58 - 0.6) / 2)
    assert cost["gain"]["verdict"] == "loses"
    assert said["benefit"]["a"]["best"] == "fedavg"
    text = printed(wire_table(from_plain(Comparison, said)))
    assert "4.0" in text
    assert "-6.0" in text


def test_a_run_counts_what_was_sent_and_its_transcript_has_it(tmp_path):
    experiment = small('data.silos=["plain","faint"]', "wire.dtype=sign", "audit.transcript=1")
    result = do(tmp_path, experiment)
    with temporary_store() as store:
        plan = experiment_plan(experiment, examine(experiment, store))
    assert result["bytes_up"] == 2 * 2 * plan.bytes_up
    assert result["bytes_full"] == result["bytes_down"] == 2 * 2 * plan.bytes_down
    assert 20 * result["bytes_up"] < result["bytes_full"]
    assert result["wire"] == "sign"
    assert any("sign with error feedback" in note for note in result["notes"])
    (message,) = read_transcript(tmp_path / "transcript")
    assert message.deltas["plain"].keys() == message.deltas["faint"].keys()
    assert "signs/body.features.0.weight" in message.deltas["plain"]
    assert "body.features.0.weight" in message.shared
