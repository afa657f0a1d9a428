"""One net in the place of a mix of models (``fedtl export --distil``), and born-again generations of tuning."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedtl.data.registry import DATA
from fedtl.errors import ConfigError, DataError, ModelError
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.experiment.distil import Distilled, distilled, lines, other_teachers, student_settings
from fedtl.experiment.epochs import epochs_at_silo
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.models.builtin import mlp
from fedtl.privacy.taint import Label
from fedtl.privacy.taint_metadata import read_labels
from fedtl.results.metrics import Measured
from tests.experiment.runs import small
from tests.experiments import MIXED


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in which each silo averages two models."""
    folder = RunFolder.create(
        tmp_path_factory.mktemp("mixed") / "run",
        small("data.silos=['plain','faint']", *MIXED, "model.settings.widths=[8,8,8]"),
    )
    run(folder.experiment(), folder)
    return folder


@pytest.fixture(scope="module")
def made(finished):
    model = SiloModel(finished, "plain")
    return model, distilled(model, student_settings(model, "mlp", {"width": 24}), 40)


def test_the_printed_accuracies_are_those_of_the_mix_and_of_the_exported_net(finished, made, tmp_path):
    model, student = made
    tests = finished.tensors("silos/plain/test.safetensors")
    assert len(model.final.members) == 2
    mix = float((tests["scores"].argmax(1) == tests["y"]).double().mean())
    assert student.teacher.figures["accuracy"] == pytest.approx(mix)
    written = export_model(student.model, tmp_path / "out", {"distilled": student.about()})
    assert any("model.onnx" in line for line in written)
    described = RunFolder(tmp_path / "out").read_json("model.json")
    assert described["model"] == "mlp"
    assert "mix" not in described

    net, _ = mlp((1, 8, 8), width=24)
    net.classifier = torch.nn.Linear(24, 10)
    net.load_state_dict(load_file(tmp_path / "out/model.safetensors"))
    raw = DATA["digits"].read(finished.experiment().data, "plain").train
    x = torch.from_numpy(raw.x[tests["ids"].numpy()])[:, None].float() / 127.5 - 1
    with torch.no_grad():
        scores = net.eval()(x)
    own = float((scores.argmax(1) == tests["y"]).double().mean())
    assert described["distilled"]["student"]["accuracy"] == pytest.approx(own)
    assert described["distilled"]["test_rows"] == len(tests["y"])
    assert described["distilled"]["weights"]["student"] == sum(w.numel() for w in net.parameters())
    assert set(read_labels(tmp_path / "out/model.safetensors").values()) == {Label.LOCAL}
    text = "\n".join(lines(student))
    assert f"{mix:.4f} before, {own:.4f} as one net" in text


def divergence(model, student, x):
    teacher, given = (one.scores(x).double().log_softmax(1) for one in (model, student))
    return float((teacher.exp() * (teacher - given)).sum(1).mean())


def test_the_student_gives_what_the_mix_gives(finished, made):
    model, student = made
    x = DATA["digits"].read(finished.experiment().data, "plain").train.x
    shortly = distilled(model, student_settings(model, "mlp", {"width": 24}), 1).model
    assert divergence(model, student.model, x) < divergence(model, shortly, x) / 1.5


def test_other_test_rows_change_no_bit_of_the_student(finished, made, monkeypatch):
    model, student = made
    tested = finished.tensors("silos/plain/test.safetensors")["ids"].numpy()
    source = DATA["digits"]

    def read(settings, name):
        raw = source.read(settings, name)
        if name != "plain":
            return raw
        images = raw.train.x.copy()
        images[tested] = 255 - images[tested]
        return replace(raw, train=replace(raw.train, x=images))

    monkeypatch.setitem(DATA.own, "digits", replace(source, read=read))
    again = distilled(model, student_settings(model, "mlp", {"width": 24}), 40)
    one, other = (made.model.final.main.state for made in (student, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again.teacher.figures != student.teacher.figures


def test_the_same_net_as_in_the_run_keeps_its_settings(finished):
    model = SiloModel(finished, "plain")
    assert student_settings(model, "convnet", {}).settings == {"widths": [8, 8, 8]}
    assert student_settings(model, "convnet", {"grid": 2}).settings == {"grid": 2}


def test_what_is_refused(finished, monkeypatch):
    model = SiloModel(finished, "plain")
    with pytest.raises(ConfigError, match="wdth"):
        student_settings(model, "mlp", {"wdth": 3})
    with pytest.raises(ModelError, match="nothing_like_this"):
        distilled(model, student_settings(model, "nothing_like_this", {}), 1)
    source = DATA["digits"]

    def read(settings, name):
        raw = source.read(settings, name)
        return replace(raw, train=replace(raw.train, x=raw.train.x[:, :7, :7]))

    monkeypatch.setitem(DATA.own, "digits", replace(source, read=read))
    with pytest.raises(DataError, match="plain"):
        distilled(model, student_settings(model, "mlp", {}), 1)


@pytest.mark.slow
def test_several_silos_teach_one_net(finished, made):
    model, _ = made
    (other,) = other_teachers(finished, "plain", ["all"])
    together = distilled(model, student_settings(model, "mlp", {"width": 24}), 40, [other])
    tests, raw = (
        finished.tensors("silos/plain/test.safetensors"),
        DATA["digits"].read(finished.experiment().data, "plain"),
    )
    x = raw.train.x[tests["ids"].numpy()]
    mean = (model.scores(x).softmax(1) + other.scores(x).softmax(1)) / 2
    wanted = float((mean.argmax(1) == tests["y"]).double().mean())
    assert together.teacher.figures["accuracy"] == pytest.approx(wanted)
    assert together.weights[0] == sum(
        one.numel() for each in (model, other) for net in each.nets().values() for one in net.parameters()
    )
    x = (
        raw.train.x
    )  # the student is nearer to the mean of both than one that learned from its own silo's model
    target = (model.scores(x).double().softmax(1) + other.scores(x).double().softmax(1)) / 2

    def apart(one):
        return float((target * (target.log() - one.scores(x).double().log_softmax(1))).sum(1).mean())

    assert apart(together.model) < apart(made[1].model)


def test_who_cannot_teach_is_refused(finished, made, monkeypatch):
    model, _ = made
    with pytest.raises(ConfigError, match="'nobody'"):
        other_teachers(finished, "plain", ["nobody"])
    (other,) = other_teachers(finished, "plain", ["faint"])
    monkeypatch.setattr(other, "classes", ("a", "b"))
    with pytest.raises(ConfigError, match="other labels"):
        distilled(model, student_settings(model, "mlp", {}), 1, [other])
    private = model.experiment.model_copy(update={"privacy": PrivacySettings(epsilon=1.0)})
    monkeypatch.setattr(model, "experiment", private)
    with pytest.raises(ConfigError, match="the run is private"):
        distilled(model, student_settings(model, "mlp", {}), 1, [other])


def test_generations_are_counted_as_epochs():
    once, thrice = (
        epochs_at_silo(
            small(*MIXED, "method.choose.candidates=['tuned']", f"method.tune.generations={number}")
        )
        for number in (0, 2)
    )
    assert thrice - once == 2 * 2


def test_scores_of_a_regression_are_those_of_its_losses():
    from fedtl.training.at_home import scores_in_loss
    from tests.training.silos import data_of

    data = replace(data_of(1, 9, classes=()), y_mean=50.0, y_std=4.0)
    in_unit = torch.tensor([[54.0], [42.0]])
    np.testing.assert_allclose(scores_in_loss(in_unit, data), [[1.0], [-2.0]])
    scores = torch.randn(3, 3)
    assert scores_in_loss(scores, data_of(1, 9)) is scores


def test_what_a_private_run_exports_holds_no_metric_on_test_rows():
    measured = Measured({"accuracy": 0.9})
    for privacy, keys in ((None, {"weights", "test_rows", "teacher", "student"}), (object(), {"weights"})):
        model = SimpleNamespace(experiment=SimpleNamespace(privacy=privacy))
        assert set(Distilled(model, measured, measured, (2, 1), 9).about()) == keys
