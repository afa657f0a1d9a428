"""Results are read from their JSON files as they were written, and a damaged file is named."""

import json

import pytest

from fedtl._util.records import from_plain, to_plain
from fedtl.errors import ConfigError
from fedtl.experiment.run_folder import RunFolder
from fedtl.results.comparison import Average, Averages, Benefit, ChosenOn, Comparison, Estimate, Gain, Verdict
from fedtl.results.metrics import Measured, WorstSilo
from fedtl.results.privacy import PrivacyReport
from fedtl.results.run import HistoryLine, RunResult, SiloResult

MEASURED = Measured({"accuracy": 0.97, "loss": 0.1}, {"auc": "there are 10 classes"})
RESULT = RunResult(
    fedtl="0.1.0", method="fedbn", model="convnet", task="classification", metric="accuracy", seed=0, rounds=40,
    silos={"mnist": SiloResult(7438, 0, 1860, MEASURED, refitted=Measured({"accuracy": 0.9}), statistics_distance=0.2)},
    mean={"accuracy": 0.97}, mean_silos={"accuracy": 1}, worst=WorstSilo("mnist", {"accuracy": 0.97}, 1),
    late={"usps": {"adabn": MEASURED}}, left_out={"mnist": ("round 2: it did not answer",)}, notes=("a note",),
    privacy=PrivacyReport(True, "record", "zero-out", "public", "public", ("accuracy",), not_released=("silos",), silos={}),
    bytes_up=123, bytes_down=123, seconds=12.3, device="cpu", workers=2,
)  # fmt: skip
COMPARISON = Comparison(
    fedtl="0.1.0", task="classification", metric="accuracy", model="convnet", rounds=2, seeds=(0, 1),
    methods={"fedbn": {"mnist": {"accuracy": Estimate(0.9, (0.8, 0.95), (0.85, 0.95))}}},
    mean={"fedbn": {"accuracy": Estimate(0.9, None, (0.85, 0.95), 1)}}, worst={"fedbn": WorstSilo(), "local": WorstSilo()},
    chosen_on=ChosenOn.VALIDATION, benefit={"mnist": Benefit("fedbn", 0.03, (0.01, 0.05), Verdict.GAINS)},
    over_local={"fedbn": {"mnist": Gain(0.03, (0.01, 0.05))}}, warnings=(),
    refitted={"fedavg": {"mnist": Averages({"accuracy": Average(0.7, (0.7, 0.7))}, {"auc": "why"})}}, seconds=3.5,
)  # fmt: skip
LINE = HistoryLine(1, 0.5, {"mnist": {"loss": 1.0}}, {"usps": "declined"}, 10, 20)


@pytest.mark.parametrize("record", [RESULT, COMPARISON, LINE], ids=lambda record: type(record).__name__)
def test_a_record_survives_its_file(record):
    assert from_plain(type(record), json.loads(json.dumps(to_plain(record), allow_nan=False))) == record


def test_the_keys_of_result_json():
    content = to_plain(RESULT)
    assert content["silos"]["mnist"] == {
        **{"train": 7438, "val": 0, "test": 1860, "accuracy": 0.97, "loss": 0.1},
        **{
            "absent": {"auc": "there are 10 classes"},
            "refitted": {"accuracy": 0.9},
            "statistics_distance": 0.2,
        },
    }
    assert content["worst"] == {"silo": "mnist", "accuracy": 0.97, "silos": 1}
    assert content["left_out"] == {"mnist": ["round 2: it did not answer"]}
    assert "epsilon" not in content["privacy"]  # that of a comparison


def test_the_keys_of_comparison_json():
    content = to_plain(COMPARISON)
    assert content["worst"] == {"fedbn": {}, "local": {}}
    assert content["mean"]["fedbn"]["accuracy"] == {
        "mean": 0.9,
        "ci95": None,
        "seeds": [0.85, 0.95],
        "silos": 1,
    }
    assert content["benefit"]["mnist"]["verdict"] == "gains"
    assert content["chosen_on"] == "validation rows"
    assert not {"absent", "target", "late", "privacy"} & content.keys()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"rounds": "many"}, "RunResult.rounds"),
        ({"rounds": True}, "RunResult.rounds"),
        ({"silos": {"mnist": {"train": 3}}}, "silos.mnist has no"),
        ({"late": 3}, "RunResult.late"),
        ({"mean": {"accuracy": "high"}}, "RunResult.mean.accuracy"),
    ],
)
def test_a_value_that_does_not_fit_is_named(change, path, tmp_path):
    content = {**to_plain(RESULT), **change}
    with pytest.raises(ValueError, match=path):
        from_plain(RunResult, content)
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"result\.json"):
        RunFolder(tmp_path).result()
