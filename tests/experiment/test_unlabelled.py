"""Silos without labels: what each method does there, what is refused, and that their labels change no bit of anything."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from fedtl.audit.audit import refuse_unauditable
from fedtl.data.parts import split_rows
from fedtl.data.prepare import read_silo
from fedtl.data.registry import DATA
from fedtl.errors import ConfigError
from fedtl.experiment.backbone import read_backbone
from fedtl.experiment.compare import compare
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.embed import body_of, embed
from fedtl.experiment.few_labels import check_all_unlabelled, label_notes, usable_methods
from fedtl.experiment.label_free_choice import (
    Unlabelled,
    agreement_of_runs,
    best_without_labels,
    nearest_to_mean,
)
from fedtl.experiment.pages import write_compare_page
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.label_free import made_with_labels, without_labels
from fedtl.methods.registry import METHODS, SELF_SUPERVISED, SOURCE_FREE
from fedtl.report.label_free_tables import label_free_table
from tests.experiment.runs import do, numbers, same, small, tensors
from tests.experiments import MIXED

UNLABELLED = "data.unlabelled=['faint']"


def flip_unused_labels(monkeypatch, settings, seed):
    """Give every training and validation row of an unlabelled silo another label; its test rows keep theirs."""
    source = DATA["digits"]

    def read(given, name):
        raw = source.read(given, name)
        if name not in settings.unlabelled:
            return raw
        _, tested = split_rows(raw, settings, name, seed)
        y = 9 - raw.train.y
        y[tested] = raw.train.y[tested]
        assert np.mean(y != raw.train.y) == pytest.approx(0.8, abs=0.01)
        return replace(raw, train=replace(raw.train, y=y))

    monkeypatch.setitem(DATA.own, "digits", replace(source, read=read))


ALL_TERMS = "method.terms=[{name='jdot'}, {name='cdan'}, {name='silo_coral'}, {name='near_target'}, {name='soft_labels'}]"
# With tuning and a mix at home, which take most of the time.
FINISHED = ("silobn", "pooled", "shot", "autodial", "infomax", "jan", "masked")
OTHERS = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in (*SOURCE_FREE, "kd3a", "simclr")
    if name not in FINISHED
]


@pytest.mark.parametrize("method", [*FINISHED, *OTHERS])
def test_flipping_all_labels_of_an_unlabelled_silo_changes_no_bit(method, tmp_path, monkeypatch):
    more = [ALL_TERMS] if method == "jan" else ["method.head=shared"] if method in SELF_SUPERVISED else []
    more += ["method.sources=3"] if method == "kd3a" else []
    more += MIXED if method in FINISHED else ()
    experiment = small(
        f"method.name={method}", UNLABELLED, 'data.silos=["plain", "inverted", "faint"]', *more
    )
    first = do(tmp_path / "a", experiment)
    flip_unused_labels(monkeypatch, experiment.data, experiment.split_seed)
    second = do(tmp_path / "b", experiment)
    assert numbers(first) == numbers(second)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    one, other = (RunFolder(tmp_path / name) for name in "ab")
    assert [line.silos for line in one.history()] == [line.silos for line in other.history()]
    assert [one.validation(silo) for silo in first["silos"]] == [
        other.validation(silo) for silo in first["silos"]
    ]


CHOICE = (
    'compare.methods=["silobn", "shot", "randconv"]',
    "compare.seeds=[0, 1]",
    'data.silos=["plain", "faint"]',
)


def test_flipping_all_labels_of_an_unlabelled_silo_changes_no_choice(tmp_path, monkeypatch):
    """All of them: what one seed tests on is without a label in the other."""
    experiment = small(UNLABELLED, *CHOICE, "rounds=1")

    def done(name):
        found = compare(experiment, RunFolder.create(tmp_path / name, experiment), 1, "cpu")
        written = tensors(tmp_path / name)
        return found, {file: one for file, one in written.items() if not file.endswith("test.safetensors")}

    first, files = done("a")
    source = DATA["digits"]

    def read(given, name):
        raw = source.read(given, name)
        flipped = replace(raw, train=replace(raw.train, y=9 - raw.train.y))
        return flipped if name == "faint" else raw

    monkeypatch.setitem(DATA.own, "digits", replace(source, read=read))
    second, others = done("b")
    assert first.methods["silobn"]["faint"] != second.methods["silobn"]["faint"]
    assert (first.label_free["faint"].best, first.label_free["faint"].chosen) == (
        second.label_free["faint"].best,
        second.label_free["faint"].chosen,
    )
    assert same(files, others)
    assert sum(file.endswith("unlabelled.safetensors") for file in files) == 6


def test_a_supervised_method_adapts_the_statistics_of_an_unlabelled_silo_alone(tmp_path):
    result = do(tmp_path, small("method.name=silobn", UNLABELLED, *MIXED))
    own = result["silos"]["faint"]
    assert (own["train"], own["unlabelled"], own["val"], own["test"]) == (0, 40, 0, 60)
    assert "mix" not in own
    assert "accuracy" in own
    local, shared = (
        RunFolder(tmp_path).tensors(name) for name in ("silos/faint/local.safetensors", "shared.safetensors")
    )
    assert local.keys() & shared.keys() == set()
    assert all("running" in name or "num_batches" in name for name in local)
    assert all("faint" not in line.silos for line in RunFolder(tmp_path).history())
    assert any("not used at faint" in note for note in result["notes"])


def test_a_silo_without_labels_gets_no_model_where_each_trains_alone(tmp_path):
    result = do(tmp_path, small("method.name=local", UNLABELLED))
    assert "faint" not in result["silos"]
    assert len(result["silos"]) == 5
    assert any("gives them no model" in note for note in result["notes"])


def test_a_fraction_of_the_labels(tmp_path):
    result = do(tmp_path, small("method.name=fedavg", "data.label_fraction={faint=0.5}"))
    own = result["silos"]["faint"]
    assert (own["train"] + own["unlabelled"], result["silos"]["plain"]["train"]) == (40, 40)
    assert 20 <= own["train"] <= 25


@pytest.mark.parametrize("name", METHODS.own)
def test_a_method_that_trains_on_labels_what_stays_at_home_is_refused(name, tmp_path):
    method = METHODS[name]()
    if not made_with_labels(method) or not method.shared:
        assert name in usable_methods() or not method.shared
        return
    assert without_labels(method) == "needs labels"
    more = ["data.unlabelled=['faint']", "data.label_fraction={plain=0.5}"]
    with pytest.raises(ConfigError, match=f"method '{name}' trains"):
        do(tmp_path, small(f"method.name={name}", *more))


def test_usable_methods():
    usable = set(usable_methods())
    assert usable >= {
        "pooled",
        "fedavg",
        "fedprox",
        "silobn",
        "scaffold",
        "moon",
        "silo_mmd",
        "simultaneous",
        "shot",
        *SOURCE_FREE,
    }
    assert not usable & {"local", "fedtl", "fedbn", "fedper", "ditto", "mrmtl", "apfl"}


def test_what_a_method_does_without_labels():
    assert "statistics" in without_labels(METHODS["silobn"]())
    assert "after the last round" in without_labels(METHODS["shot"]())
    assert "losses" in without_labels(METHODS["mcc"]())


@pytest.mark.parametrize("method", ["shot", "infomax"])
def test_a_silo_without_labels_moves_its_body_by_losses_that_need_none(method, tmp_path):
    do(tmp_path, small(f"method.name={method}", UNLABELLED, *MIXED))
    local, shared = (
        RunFolder(tmp_path).tensors(name) for name in ("silos/faint/local.safetensors", "shared.safetensors")
    )
    replies = [set(line.silos) for line in RunFolder(tmp_path).history()]
    moved = {name for name in local.keys() & shared.keys() if not name.endswith("num_batches_tracked")}
    if method == "shot":  # after the last round, and with the head of the others
        assert moved
        assert not any(name.startswith("head.") for name in moved)
    else:
        assert not moved
        assert all("faint" in reply for reply in replies)


CONTRADICTIONS = {
    "data.late=['faint']": "data.late",
    "data.label_fraction={faint=0.5}": "label_fraction",
    "data.target_domain=inverted": "target_domain",
    "data.unlabelled=['faint', 'faint']": "2 times",
    "privacy.epsilon=3": "privacy",
    "data.unlabelled=['plain', 'inverted', 'blurred', 'faint', 'rotated', 'textured']": "no silo has labels",
}


@pytest.mark.parametrize("setting", CONTRADICTIONS)
def test_settings_that_contradict_an_unlabelled_silo(setting, tmp_path):
    with pytest.raises(ConfigError, match=CONTRADICTIONS[setting]):
        do(tmp_path, small("method.name=silobn", UNLABELLED, setting))


def test_a_comparison_leaves_out_what_an_unlabelled_silo_has_not(tmp_path):
    methods = 'compare.methods=["local", "local ensemble", "silobn", "shot"]'
    experiment = small(UNLABELLED, methods, "compare.seeds=[0, 1]", "rounds=1")
    found = compare(experiment, RunFolder.create(tmp_path, experiment), 1, "cpu")
    assert "faint" in found.methods["silobn"]
    assert all("faint" not in found.methods[label] for label in ("local", "local ensemble", "constant"))
    assert "faint" not in found.over_local["silobn"]
    assert "faint" not in found.benefit
    gain, own = (
        found.over_source["shot"]["faint"],
        {name: found.methods[name]["faint"]["accuracy"].mean for name in ("shot", "silobn")},
    )
    assert gain.mean == pytest.approx(own["shot"] - own["silobn"])
    taken = found.label_free["faint"]
    rows = read_silo(experiment.data, "faint")
    runs = {}
    for name in ("silobn", "shot"):
        for seed in (0, 1):
            kept = RunFolder(tmp_path / "runs" / f"{name}-seed{seed}").tensors(
                "silos/faint/unlabelled.safetensors"
            )
            numbers = kept["rows"].numpy()
            _, tested = split_rows(rows, experiment.data, "faint", seed)
            assert not np.isin(numbers, tested).any()
            assert (len(numbers), len(kept["scores"])) == (44, len(rows.train.y))
            run = RunFolder(tmp_path / "runs" / f"{name}-seed{seed}")
            own = run.tensors("silos/faint/test.safetensors")
            assert torch.equal(kept["scores"][own["ids"]].argmax(1), own["scores"].argmax(1))
            runs.setdefault(name, []).append(Unlabelled(kept["scores"], numbers))
    chosen = [best_without_labels(runs, number) for number in (0, 1)]
    assert taken.chosen == ({} if len(set(chosen)) == 1 else {"silobn": 1, "shot": 1})
    seeds = {name: found.methods[name]["faint"]["accuracy"].seeds for name in runs}
    gains = [seeds[name][number] - seeds["silobn"][number] for number, name in enumerate(chosen)]
    assert taken.gain.mean == pytest.approx(np.mean(gains))
    written = RunFolder(tmp_path).comparison()
    assert written.label_free == found.label_free
    assert "Silos without labels" in (write_compare_page(RunFolder(tmp_path))).read_text()
    printed = Console(record=True, width=100)
    printed.print(label_free_table(written))
    assert f"* {taken.best}" in printed.export_text()


@pytest.mark.parametrize("setting", [UNLABELLED, "data.label_fraction=0.5"])
def test_a_run_with_hidden_labels_is_not_audited(setting):
    with pytest.raises(ConfigError, match="rows with labels"):
        refuse_unauditable(small("method.name=silobn", setting))


def test_what_crosses_says_nothing_of_rows_of_a_second_domain_and_a_note_says_so():
    both = ["data.target_domain=inverted", "method.name=silo_coral"]
    experiment = small(*both)
    (note,) = label_notes(experiment, method_of(experiment.method), ["plain"])
    assert "SiloCoral compares silos" in note
    assert "use mmd, coral or dann" in note
    inside = small("data.target_domain=inverted", "method.name=coral")
    assert not list(label_notes(inside, method_of(inside.method), ["plain"]))


def test_methods_are_compared_with_the_shared_model_without_terms(tmp_path):
    experiment = small(
        UNLABELLED, *CHOICE, "rounds=1", "method.name=silobn", "method.terms=[{name='randconv'}]"
    )
    found = compare(experiment, RunFolder.create(tmp_path, experiment), 1, "cpu")
    own = {name: found.methods[name]["faint"]["accuracy"].mean for name in ("silobn", "silobn, no terms")}
    assert own["silobn"] != own["silobn, no terms"]
    gain = found.over_source["silobn"]["faint"].mean
    assert gain == pytest.approx(own["silobn"] - own["silobn, no terms"])
    assert "silobn, no terms" not in found.over_source


def test_regression_needs_declared_scales():
    with pytest.raises(ConfigError, match="scale"):
        load_experiment("digits", ["data.task=regression", UNLABELLED])


def drawn(seed, error, runs=3):
    """Return runs that answer 60 rows by their number modulo 3, and at random with this probability; 40 of the rows are each run's own."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(runs):
        answers = np.where(rng.random(60) < error, rng.integers(0, 3, 60), np.arange(60) % 3)
        scores = rng.normal(size=(60, 3))
        scores[np.arange(60), answers] = 9.0
        made.append(Unlabelled(torch.from_numpy(scores), rng.permutation(60)[:40]))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_the_agreement_of_runs_is_the_mean_share_of_a_runs_rows_with_the_same_answer(seed):
    runs = drawn(seed, 0.4)
    answers = [one.scores.numpy().argmax(1) for one in runs]
    shares = [np.mean([answers[0][row] == other[row] for row in runs[0].rows]) for other in answers[1:]]
    assert agreement_of_runs(runs, 0) == pytest.approx(np.mean(shares))
    assert 0 < np.mean(shares) < 1
    changed = runs[1].scores.clone()
    changed[np.setdiff1d(np.arange(60), runs[0].rows)] = 0.0  # rows that are not those of the first run
    assert agreement_of_runs([runs[0], replace(runs[1], scores=changed), runs[2]], 0) == np.mean(shares)


def test_a_silo_without_labels_takes_the_method_whose_runs_agree_most():
    runs = {"silobn": drawn(0, 0.6), "shot": drawn(1, 0.2), "randconv": drawn(2, 0.9)}
    assert [best_without_labels(runs, number) for number in range(3)] == ["shot"] * 3
    sure_but_apart = [
        replace(one, scores=torch.eye(3)[[answer] * 60]) for answer, one in enumerate(drawn(0, 0.0))
    ]
    assert best_without_labels({"shot": sure_but_apart, "silobn": drawn(0, 0.6)}, 0) == "silobn"


def test_with_one_run_it_takes_the_shared_model_or_the_method_nearest_to_the_mean():
    alone = {"shot": drawn(1, 0.2, 1), "silobn": drawn(0, 0.6, 1)}
    assert np.isnan(agreement_of_runs(alone["shot"], 0))
    assert best_without_labels(alone, 0) == "silobn"
    scores = {"a": [[9.0, 0, 0]], "b": [[2.0, 0, 0]], "c": [[0, 0, 0.5]]}
    found = {name: [Unlabelled(torch.tensor(one), np.array([0]))] for name, one in scores.items()}
    assert best_without_labels(found, 0) == nearest_to_mean(
        {name: torch.tensor(one) for name, one in scores.items()}
    )


def test_of_values_the_method_nearest_to_the_mean_of_all():
    values = {"silobn": 0.0, "b": 1.0, "c": 5.0}  # the mean is 2
    assert nearest_to_mean({name: torch.tensor([[one], [one + 1]]) for name, one in values.items()}) == "b"


def test_of_classes_too_the_method_nearest_to_the_mean_of_all():
    scores = {name: torch.tensor([[p, 1 - p]]).log() for name, p in (("a", 0.9), ("b", 0.6), ("c", 0.2))}
    assert nearest_to_mean(scores) == "b"  # the mean is 0.57
    assert nearest_to_mean({name: one + 3 for name, one in scores.items()}) == "b"


NO_LABELS = ["data.silos=['plain', 'faint']", "data.unlabelled=['plain', 'faint']"]


@pytest.mark.slow
def test_silos_without_any_label_train_a_body_that_a_new_silo_gets_a_head_for(tmp_path, monkeypatch):
    experiment = small("method.name=masked", "rounds=1", *NO_LABELS)
    result, folder = do(tmp_path / "a", experiment), RunFolder(tmp_path / "a")
    assert result["mean"] == {}
    assert any("fedtl onboard" in note for note in result["notes"])
    flip_unused_labels(monkeypatch, experiment.data, 0)
    assert same(tensors(tmp_path / "a"), tensors_of(do(tmp_path / "b", experiment), tmp_path / "b"))
    model, x = SiloModel(folder, "plain"), np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    assert embed(body_of(model), x).vectors.shape == (20, model.plan.features)
    with pytest.raises(ConfigError, match="head of its model"):
        model.scores(x)
    with pytest.raises(ConfigError, match="head of its model"):
        export_model(model, tmp_path / "out")
    backbone = read_backbone(tmp_path / "a")
    moved = backbone.shared["body.features.0.weight"] - backbone.trainer.initial(10)["body.features.0.weight"]
    assert moved.abs().max() > 0
    assert "head.weight" not in backbone.shared
    assert len(backbone.labels) == 10


def tensors_of(result, path):
    assert set(result["silos"]) == {"plain", "faint"}
    return tensors(path)


def test_silos_without_any_label_need_a_method_that_needs_none_and_known_classes(tmp_path):
    for name in ("silobn", "fedtl", "entropy"):
        with pytest.raises(ConfigError, match="train the body alone"):
            do(tmp_path / name, small(f"method.name={name}", *NO_LABELS))
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare(
            small("compare.methods=['simclr', 'masked']", *NO_LABELS),
            RunFolder.create(tmp_path / "c", small()),
            1,
            "cpu",
        )
    table = small("method.name=masked", *NO_LABELS)
    data = table.data.model_copy(update={"source": "table", "path": "nowhere"})
    with pytest.raises(ConfigError, match="data.classes"):
        check_all_unlabelled(table.model_copy(update={"data": data}))
