"""A silo that took no part in training: what it receives, which rows make its heads, and that test rows only judge."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from fedtl._util.records import from_plain
from fedtl.data import prepare
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.backbone import read_backbone
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.episodes import interval
from fedtl.experiment.new_silo import new_silo_experiment, new_silo_name, read_new_silo
from fedtl.experiment.onboard import CHOSEN, RECEIVED, Episodes, NewSilo, onboard
from fedtl.experiment.onboard_folder import check_new, write_onboarded
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.resemblance import check_comparable, resembling
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.run_trainer import run_trainer
from fedtl.methods.base import LabelledFeatures
from fedtl.methods.heads.choose import HEADS
from fedtl.methods.tune import Tune
from fedtl.models.roles import Role
from fedtl.results.onboard import OnboardResult
from fedtl.training.at_home import features_by
from fedtl.training.few_labels import alone_on_few, passes, tuned_on_few, with_few_labels
from fedtl.training.loop import Loop
from tests.experiment.private_silos import data_of
from tests.experiments import ROUNDS_ONLY

SETS = ["rounds=1", "data.limit=60", "engine.name=serial", 'data.late=["textured"]', *ROUNDS_ONLY]
PLAN = Episodes((1, 3), 4, 0, 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run by method; the model of fedavg has one head for all silos."""
    folders = {}
    for name in ("fedavg", "fedtl"):
        experiment = load_experiment("digits", [*SETS, f"method.name={name}"])
        folder = RunFolder.create(tmp_path_factory.mktemp("onboard") / name, experiment)
        run(experiment, folder)
        folders[name] = folder
    return folders


def new_silo(path, data=None, silo=None):
    """The silo of ``data``, or the late one of the run's own settings."""
    backbone = read_backbone(path)
    experiment = new_silo_experiment(backbone, str(data or path / "experiment.toml"))
    name = new_silo_name(backbone, experiment, silo)
    return NewSilo.of(backbone, name, read_new_silo(backbone, experiment, name))


@pytest.fixture(scope="module")
def silo(runs):
    return new_silo(runs["fedavg"].path)


def onboarded(silo, plan=PLAN):
    return onboard(silo, plan, lambda *_: None)


@pytest.fixture(scope="module")
def result(silo):
    return onboarded(silo, replace(PLAN, alone=1))


def numbers(result):
    return replace(result, seconds=0.0)


def test_the_body_is_the_received_one_and_the_statistics_are_exact(runs, silo):
    shared, roles = runs["fedavg"].tensors("shared.safetensors"), silo.backbone.trainer.partition.roles
    for name, tensor in shared.items():
        if roles[name] in (Role.BODY, Role.NORM):
            assert torch.equal(silo.state[name], tensor), name
    first = torch.nn.functional.conv2d(
        silo.prepared.data.train.x.float() / 127.5 - 1, silo.state["body.features.0.weight"], padding=1
    ).double()
    assert first.shape[1:] == (32, 8, 8)
    assert torch.allclose(
        silo.state["body.features.1.running_mean"], first.mean((0, 2, 3)).float(), atol=1e-5
    )
    assert torch.allclose(silo.state["body.features.1.running_var"], first.var((0, 2, 3)).float(), rtol=1e-3)


def test_the_received_head_scores_as_in_the_run_itself(runs, result):
    """``data.late`` gives the same silo the shared model after AdaBN."""
    late = runs["fedavg"].result().late["textured"]["adabn"].figures
    for part in result.shots:
        assert part.heads[RECEIVED].mean == pytest.approx(late["accuracy"], abs=1e-9)
        assert part.heads[RECEIVED].loss == pytest.approx(late["loss"], rel=1e-5)


def test_an_episode_has_as_many_rows_of_each_class(silo):
    draws = [silo.draw(3, episode, 0) for episode in (0, 1)]
    for rows in draws:
        assert torch.bincount(silo.support.y[rows]).tolist() == [3] * 10
        assert len(set(rows.tolist())) == 30
    assert draws[0].tolist() != draws[1].tolist()
    assert silo.draw(3, 0, 0).tolist() == draws[0].tolist()
    assert silo.draw(3, 0, 1).tolist() != draws[0].tolist()


def test_the_accuracy_of_an_episode_is_that_of_scikit_learn(silo, result):
    rows = silo.draw(3, 2, 0)
    model = NearestCentroid().fit(silo.support.features[rows].numpy(), silo.support.y[rows].numpy())
    right = model.predict(silo.queries.features.numpy()) == silo.queries.y.numpy()
    assert result.shots[1].heads["prototype"].episodes[2] == pytest.approx(right.mean())


def test_intervals_and_differences_are_over_the_same_episodes(result):
    part = result.shots[1]
    values = np.array(part.heads["ridge"].episodes)
    assert len(values) == 4
    half = 3.182446 * values.std(ddof=1) / 2  # Student's t with three degrees of freedom
    assert part.heads["ridge"].ci95 == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-6)
    gain = part.heads["ridge"].over_prototype
    assert gain.mean == pytest.approx((values - part.heads["prototype"].episodes).mean())
    assert gain.episodes == 4
    alone = part.heads["ridge"].over_alone
    assert (alone.episodes, alone.ci95) == (1, None)
    assert alone.mean == pytest.approx(values[0] - part.heads["alone"].episodes[0])
    assert part.heads["prototype"].over_prototype is None
    assert interval([0.5, 0.6]) is None


def test_in_each_episode_the_support_chooses(result):
    assert result.shots[0].chosen == {}  # one shot
    assert result.shots[0].heads[CHOSEN].episodes == result.shots[0].heads["prototype"].episodes
    assert all(score.held_out is None for score in result.shots[0].heads.values())
    part = result.shots[1]
    assert sum(part.chosen.values()) == 4
    assert part.heads[CHOSEN].held_out is None
    assert all(part.heads[name].held_out is not None for name in HEADS)


def test_test_labels_decide_nothing_but_the_judgement(silo, result):
    flipped = replace(silo, queries=replace(silo.queries, y=(silo.queries.y + 1) % 10))
    other = onboarded(flipped)
    assert [part.chosen for part in other.shots] == [part.chosen for part in result.shots]
    for part, before in zip(other.shots, result.shots, strict=True):
        for name in HEADS:
            assert part.heads[name].held_out == before.heads[name].held_out
        assert part.heads["ridge"].mean < before.heads["ridge"].mean


def test_labels_outside_the_support_have_no_effect(silo):
    """Features and statistics see all training inputs; the labels of rows that were not drawn are not used."""
    rows = silo.draw(3, 0, 0)
    spoilt = torch.full_like(silo.support.y, 0)
    spoilt[rows] = silo.support.y[rows]

    class Fixed(NewSilo):
        def draw(self, shots, episode, seed):
            return rows

    def with_labels(y):
        return Fixed(**{**vars(silo), "support": replace(silo.support, y=y)})

    plan = Episodes((3,), 1, 0, 0)
    wanted, other = (onboarded(with_labels(y), plan).shots[0].heads for y in (silo.support.y, spoilt))
    assert {name: one.episodes for name, one in wanted.items()} == {
        name: one.episodes for name, one in other.items()
    }


def test_where_all_rows_are_drawn_there_is_one_episode(silo):
    part = onboarded(silo, Episodes((50,), 4, 0, 0)).shots[0]
    assert (part.episodes, part.rows) == (1, 60)
    assert part.short.keys() == set(map(str, range(10)))
    assert sum(part.short.values()) == 60
    assert part.heads["prototype"].ci95 is None


def test_a_silo_with_a_head_of_its_own_gets_no_shared_one(runs):
    found = onboarded(new_silo(runs["fedtl"].path), Episodes((1,), 1, 0, 0))
    assert RECEIVED not in found.shots[0].heads
    assert "keeps its own head" in found.left_out[RECEIVED]
    assert "protonet" in found.left_out["relation"]


def test_an_exported_model_gives_the_same_features(runs, silo, tmp_path):
    export_model(SiloModel(runs["fedavg"], "plain"), tmp_path / "exported")
    for path in (tmp_path / "exported", tmp_path / "exported" / "model.safetensors"):
        other = new_silo(path, runs["fedavg"].path / "experiment.toml", "textured")
        assert torch.equal(other.queries.features, silo.queries.features)
        assert torch.equal(other.received(), silo.received())


def write_npz(path, labels, rows=8, shape=(8, 8), test=("a", "b")):
    rng = np.random.default_rng(0)

    def images(y):
        return (rng.random((len(y), *shape)) * 255).astype(np.uint8), np.array(y)

    path.mkdir()
    train, evaluation = (images(list(y)) for y in (labels * rows, test * 3))
    arrays = dict(zip(("train_x", "train_y", "test_x", "test_y"), (*train, *evaluation), strict=True))
    np.savez(path / "clinic.npz", **arrays)
    file = path / "new.toml"
    file.write_text('[data]\nsource = "npz"\npath = "."\nval = 0.0\n')
    return file


def test_classes_that_no_silo_had_and_classes_without_a_row(runs, tmp_path):
    file = write_npz(tmp_path / "new", ("a", "b"), test=("a", "b", "7"))
    found = onboarded(new_silo(runs["fedavg"].path, file), Episodes((2,), 2, 1, 0))
    assert found.silo == "clinic"
    assert found.classes == ("7", "a", "b")
    assert found.new_classes == ("a", "b")
    assert found.missing_classes == ("7",)
    assert "none of this silo's classes" in found.left_out[RECEIVED]
    assert max(score.mean for score in found.shots[0].heads.values()) <= 2 / 3  # every 7 is wrong


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        (("a",), {}, "same label"),
        (("a", "b"), {"shape": (9, 9)}, "trained on"),
    ],
)
def test_rows_that_do_not_fit_are_an_error(runs, tmp_path, labels, options, says):
    file = write_npz(tmp_path / "new", labels, test=labels, **options)
    with pytest.raises(DataError, match=says):
        new_silo(runs["fedtl"].path, file)


@pytest.mark.parametrize(("silo", "says"), [("plain", "trained in this"), ("nobody", "nobody")])
def test_a_silo_that_trained_or_does_not_exist_is_an_error(runs, silo, says):
    with pytest.raises(ConfigError, match=says):
        new_silo(runs["fedavg"].path, silo=silo)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [10**13]),
        ("shape", "x"),
        ("shape", [1, 8, -8]),
        ("classes", [["a"]]),
        ("inputs", {"size": 8}),
    ],
)
def test_a_damaged_description_of_a_model_is_one_line(runs, tmp_path, key, value):
    export_model(SiloModel(runs["fedavg"], "plain"), tmp_path / "out")
    (file,) = tmp_path.rglob("model.json")
    about = json.loads(file.read_text())
    about.pop("mix", None)
    file.write_text(json.dumps(about | {key: value}))
    with pytest.raises(ConfigError, match="damaged"):
        read_backbone(file.parent)


def test_an_exported_segmentation_is_refused_by_its_task(tmp_path):
    inputs = {"size": "native", "channels": "native", "columns": []}
    about = {
        "model": "unet",
        "inputs": inputs,
        "shape": [1, 8, 8],
        "classes": ["a", "b"],
        "task": "segmentation",
    }
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match="one label a row"):
        read_backbone(tmp_path)


def test_several_new_silos_need_a_name(runs, tmp_path):
    file = write_npz(tmp_path / "new", ("a", "b"))
    (file.parent / "other.npz").write_bytes((file.parent / "clinic.npz").read_bytes())
    with pytest.raises(ConfigError, match="2 new silos"):
        new_silo(runs["fedavg"].path, file)


def test_a_run_that_shares_no_body_has_nothing_to_give(runs, tmp_path):
    folder = runs["fedavg"]
    experiment = load_experiment("digits", [*SETS, "method.name=lgfedavg"])
    other = RunFolder.create(tmp_path / "run", experiment)
    other.write_json("result.json", {})
    (other.path / "silos").symlink_to(folder.path / "silos")
    shared = folder.tensors("shared.safetensors")
    other.save_tensors("shared.safetensors", {key: one for key, one in shared.items() if "head" in key})
    with pytest.raises(ConfigError, match="shares no body"):
        read_backbone(other.path)


def test_the_folder_holds_the_result_the_settings_and_a_page(silo, result, tmp_path):
    experiment = new_silo_experiment(silo.backbone, "digits")
    page = write_onboarded(tmp_path / "out", result, experiment).read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    for text in ("matching with attention", "own model, trained on the support", "With 3 labels a class"):
        assert text in page
    content = json.loads((tmp_path / "out" / "onboard.json").read_text())
    assert from_plain(OnboardResult, content) == result
    assert load_experiment(str(tmp_path / "out" / "experiment.toml")) == experiment
    with pytest.raises(ConfigError, match="not empty"):
        check_new(tmp_path / "out")


def test_what_is_trained_sees_the_labels_of_the_support_and_all_inputs(silo):
    data, rows = silo.prepared.data, silo.draw(2, 0, 0)
    few = with_few_labels(data, rows)
    assert few.train.y.tolist() == data.train.y[rows].tolist()
    assert len(few.val) == 0
    assert sorted(map(bytes, few.inputs.numpy())) == sorted(map(bytes, data.train.x.numpy()))
    trainer = replace(silo.backbone.trainer, training=replace(silo.backbone.trainer.training, lr=1e-12))
    _, still = tuned_on_few(trainer, "textured", few, silo.state, 1, 0)
    body = {name for name in still if name.startswith("body.") and "num_batches" not in name}
    for name in body:  # without steps it is the received body with its exact statistics
        assert torch.allclose(still[name], silo.state[name], atol=1e-5), name
    _, moved = tuned_on_few(silo.backbone.trainer, "textured", few, silo.state, 1, 0)
    assert not torch.allclose(moved["body.features.0.weight"], silo.state["body.features.0.weight"])
    own, alone = alone_on_few(trainer, "textured", few, 1, 1, 0)
    initial = own.initial(few.width)
    assert torch.allclose(alone["body.features.0.weight"], initial["body.features.0.weight"])
    exact = own.adapt(initial, data.train.x, few.width)
    assert torch.allclose(
        alone["body.features.1.running_mean"], exact["body.features.1.running_mean"], atol=1e-5
    )


@pytest.mark.slow
def test_few_rows_are_trained_for_as_many_steps_as_all_rows(silo, monkeypatch):
    steps, batches = [], Loop.batches

    def counting(self, *given):
        drawn = list(batches(self, *given))
        steps.append(len(drawn))
        return drawn

    monkeypatch.setattr(Loop, "batches", counting)
    data, size = silo.prepared.data, silo.backbone.trainer.training.batch_size
    few = with_few_labels(data, silo.draw(2, 0, 0))
    repeats = passes(data, few, size)
    alone_on_few(silo.backbone.trainer, "textured", few, 3, repeats, 0)
    assert len(few.train) <= size  # one step an epoch
    assert len(data.train) > size
    assert sum(steps) == (3 + Tune().epochs) * math.ceil(len(data.train) / size)
    assert passes(data, with_few_labels(data, torch.arange(len(data.train))), size) == 1


@pytest.mark.slow
def test_the_averaged_model_is_the_mean_of_two_probabilities(silo):
    scores = {name: one.double().softmax(1) for name, one in silo.trained(silo.draw(2, 0, 0), 0).items()}
    expected = (scores["alone"] + scores["tuned"]) / 2
    assert torch.allclose(scores["mixed"], expected, atol=1e-6)
    assert not torch.allclose(scores["alone"], scores["tuned"], atol=1e-2)


def test_silos_resemble_by_the_distances_of_their_prototypes(runs, silo):
    rows = silo.draw(4, 0, 0)
    support = LabelledFeatures(silo.support.features[rows], silo.support.y[rows])
    labels = tuple(map(str, range(10)))
    found = resembling(silo.backbone, support, labels, lambda *_: None)
    assert found.keys() == {"plain", "inverted", "blurred", "faint", "rotated"}
    x, y = support.features.numpy(), support.y.numpy()
    limit = np.linalg.norm(x, axis=1).max()

    def means(x, y):
        x = x * np.minimum(1, limit / np.linalg.norm(x, axis=1, keepdims=True))
        return np.stack([x[y == c].mean(0) for c in range(10)])

    backbone = silo.backbone
    raw = prepare.read_silo(backbone.experiment.data, "faint")
    data = prepare.prepare_silo(raw, backbone.experiment.data, "faint", 0, labels, frozenset(labels)).data
    theirs = features_by(backbone.trainer, backbone.state(data), data.train, data)
    spread = np.sqrt(((x - means(x, y)[y]) ** 2).sum(1).mean())
    gaps = np.linalg.norm(means(x, y) - means(theirs.features.numpy(), theirs.y.numpy()), axis=1)
    assert found["faint"] == pytest.approx(gaps.mean() / spread, rel=1e-4)
    few = LabelledFeatures(support.features[y < 2], support.y[y < 2])
    other = resembling(backbone, few, ("0", "unheard of"), lambda *_: None)
    assert other["faint"] != found["faint"]
    assert resembling(backbone, few, ("a", "b"), lambda *_: None) == {}
    data = backbone.experiment.data.model_copy(update={"unlabelled": ["faint"]})
    without = replace(backbone, experiment=backbone.experiment.model_copy(update={"data": data}))
    assert resembling(without, support, labels, lambda *_: None).keys() == found.keys() - {"faint"}


def test_silos_of_a_private_run_and_of_an_export_are_not_matched(silo):
    for changed in ({"trained": ()}, {"experiment": load_experiment("digits", ["privacy.epsilon=3"])}):
        with pytest.raises(ConfigError, match="--match"):
            check_comparable(replace(silo.backbone, **changed))
    check_comparable(silo.backbone)


@pytest.mark.parametrize("more", [[], ["model.adapters.rank=2"]], ids=["plain", "adapters"])
def test_the_body_of_a_private_run_is_tuned_by_its_ordinary_names(more):
    trainer = run_trainer(load_experiment("digits", ["privacy.epsilon=3", *more]), (1, 8, 8))
    received = {name: one + 0.01 for name, one in trainer.initial(3).items()}
    own, state = tuned_on_few(trainer, "new", with_few_labels(data_of(), torch.arange(6)), received, 1, 0)
    assert state.keys() == own.initial(3).keys()
    if more:  # what is frozen is still the received body
        at = {name: name.replace(".affine.", ".") for name in trainer.spec.frozen}
        assert all(torch.equal(state[at[name]], received[name]) for name in trainer.spec.frozen)
