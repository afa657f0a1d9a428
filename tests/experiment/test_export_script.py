"""An export says how to rebuild the network and how inputs are made: predict.py gives fedtl's own predictions without fedtl."""

import csv
import io
import runpy
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fedtl.data.input_files import read_inputs
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.export_script import FILE, network_code
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.candidate import Candidate
from fedtl.models.registry import model_spec
from fedtl.training.at_home import FinalModel, Member

RNG = np.random.default_rng(0)
FEW = ["rounds=1", "engine.name=serial", "method.tune.epochs=1", "train.lr=0.01"]


def exported(folder, path, *sets):
    """The model of silo a after one round, and the folder with its export."""
    settings = [*FEW, "data.silos=[]", f"data.path={path}", *sets]
    done = RunFolder.create(folder / "run", load_experiment("digits", settings))
    run(done.experiment(), done)
    model = SiloModel(done, "a")
    lines = export_model(model, folder / "out")
    assert any(line.startswith(str(folder / "out" / FILE)) for line in lines), lines
    assert (folder / "out" / "config.json").is_file()
    assert (
        "\n| " in (folder / "out" / "README.md").read_text().split("## Metrics")[1]
    )  # measured at this silo
    return model, folder / "out" / FILE


def printed(script, file, monkeypatch, capsys):
    """What the script prints where fedtl cannot be imported."""
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "fedtl"]:
            patch.setitem(sys.modules, name, None)
        patch.setitem(sys.modules, "fedtl", None)
        patch.setattr(sys, "argv", [str(script), str(file)])
        capsys.readouterr()
        runpy.run_path(str(script), run_name="__main__")
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def refused(script, words, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
    return ended.value.code


def check(model, script, file, monkeypatch, capsys):
    x = read_inputs(file, model.experiment.data, model.inputs, model.shape).x
    wanted = model.scores(x)
    rows = printed(script, file, monkeypatch, capsys)
    assert len(rows) == len(x)
    if not model.classes:
        np.testing.assert_allclose([float(row["prediction"]) for row in rows], wanted[:, 0], rtol=1e-4)
        return
    got = [[float(row[f"p({label})"]) for label in model.classes] for row in rows]
    np.testing.assert_allclose(got, wanted.softmax(1), atol=2e-5)
    assert [row["prediction"] for row in rows] == [model.classes[one] for one in wanted.argmax(1)]


KINDS = [
    'data.categories={sex=["f","m"]}',
    'data.ordered={stage=["I","II","III"]}',
    'data.dates=["seen"]',
    'data.date_parts=["days","weekday","month","hour"]',
    "data.time_zone=Europe/Berlin",
    'data.hashed=["icd"]',
    "data.hash_width=4",
    'data.target_encoded=["ward"]',
    'data.text=["note"]',
    "data.text_width=8",
]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_table_with_columns_of_every_kind_and_empty_cells(task, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    for silo in "ab":
        lines = ["x;sex;z;stage;seen;icd;ward;note;label"]
        for x, z in RNG.normal(size=(60, 2)):
            label = 1000 + 30 * x if task == "regression" else "yes" if x > 0 else "no"
            words = [RNG.choice(list(values)) for values in (["f", "m", ""], ["I", "II", "III", ""])]
            words.append(RNG.choice(["2024-02-29", "2023-07-01T18:30", "2024-01-01T10:00Z", ""]))
            words += [RNG.choice(values) for values in (["E10", "007", "7", "NA"], ["north", "south", ""])]
            words.append(RNG.choice(["no fever", "Fever, fever and cough", ""]))
            row = [f"{x:.4f}", words[0], f"{z:.4f}", *words[1:], f"{label}"]
            lines.append(";".join(row).replace("0.1", "").replace(".", ","))
        (tmp_path / "data" / f"{silo}.csv").write_text("\n".join(lines) + "\n")
    sets = [
        "data.source=table",
        "data.delimiter=;",
        'data.decimal=","',
        "model.name=mlp",
        f"data.task={task}",
    ]
    model, script = exported(tmp_path, tmp_path / "data", *sets, *KINDS)
    assert len(model.inputs.columns) == 2 + 2 + 1 + 7 + 4 + 1 + 8
    file = tmp_path / "new.csv"
    rows = [
        "1,5;;f;II;2024-05-05;E10;north;No fever",
        ";2;m;;;;;",
        "0,1;-3;;III;2023-12-31T23:59-05:00;new;west;-",
    ]
    file.write_text("\n".join(["z;x;sex;stage;seen;icd;ward;note", *rows]) + "\n")
    swapped = [";".join([one.split(";")[1], one.split(";")[0], *one.split(";")[2:]]) for one in rows]
    (tmp_path / "ordered.csv").write_text("\n".join(["x;z;sex;stage;seen;icd;ward;note", *swapped]) + "\n")
    check(model, script, tmp_path / "ordered.csv", monkeypatch, capsys)
    other = printed(script, file, monkeypatch, capsys)  # its columns are found by name
    assert other == printed(script, tmp_path / "ordered.csv", monkeypatch, capsys)
    for words, says in (
        (["--help"], None),
        ([], "one file"),
        (["nowhere.csv"], "one file"),
        ([str(file)] * 2, "one file"),
    ):
        capsys.readouterr()
        code = refused(script, words, monkeypatch)
        assert "prediction" not in capsys.readouterr().out  # no half of a table
        assert code is says or says in code
    short = tmp_path / "short.csv"
    short.write_text("other\n1\n")
    assert "has no column" in refused(script, [str(short)], monkeypatch)
    if task == "classification":
        check_mix(model, tmp_path / "mix", tmp_path / "ordered.csv", monkeypatch, capsys)


def check_mix(model, out, file, monkeypatch, capsys):
    """predict.py mixes all models of a mix; further training starts from the one that came of training together."""
    main = replace(model.final.main, weight=0.75)
    moved = {name: value + 0.1 if value.is_floating_point() else value for name, value in main.state.items()}
    model.final = FinalModel((Member(Candidate.OWN, 0.25, moved), main))
    export_model(model, out)
    check(model, out / FILE, file, monkeypatch, capsys)
    assert len(list(out.glob("*.safetensors"))) == 2
    started = load_experiment("digits", [f"model.weights={out}"])
    assert started.model.weights == str(out / f"{main.name}.safetensors")
    with pytest.raises(ConfigError, match=f"the export {out}"):
        load_experiment("digits", [f"model.weights={out}/model.safetensors"])


@pytest.mark.parametrize("scale", ["auto", "[[0.3], [0.4]]"])
def test_pictures(scale, tmp_path, monkeypatch, capsys):
    for silo in "ab":
        for label in ("dark", "light"):
            folder = tmp_path / "data" / silo / label
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = RNG.integers(0, 120, (9, 9, 3), np.uint8) + (130 if label == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    sets = ["data.source=images", "data.size=8", "model.settings.widths=[4,4,4]", f"model.pixels={scale}"]
    model, script = exported(tmp_path, tmp_path / "data", *sets)
    check(model, script, tmp_path / "data/a/light/3.png", monkeypatch, capsys)


@pytest.mark.parametrize("declared", ["[]", "[0, 4095]"])
def test_pictures_of_sixteen_bits(declared, tmp_path, monkeypatch, capsys):
    for silo in "ab":
        for label, low in (("dark", 0), ("light", 2000)):
            folder = tmp_path / "data" / silo / label
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = (RNG.integers(0, 2000, (8, 8)) + low).astype(np.uint16)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    sets = ["data.source=images", "model.settings.widths=[4,4,4]", f"data.pixel_range={declared}"]
    model, script = exported(tmp_path, tmp_path / "data", *sets)
    file = tmp_path / "data/a/light/3.png"
    check(model, script, file, monkeypatch, capsys)
    np.save(tmp_path / "new.npy", np.asarray(Image.open(file))[None])
    check(model, script, tmp_path / "new.npy", monkeypatch, capsys)  # the same picture as an array
    one, other = (
        read_inputs(each, model.experiment.data, model.inputs, model.shape).x
        for each in (file, tmp_path / "new.npy")
    )
    assert torch.equal(model.scores(one), model.scores(other))
    if declared == "[]":
        with pytest.raises(DataError, match="uint8"):
            model.scores(other.astype(np.float32))


def test_volumes(tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    for silo in "ab":
        y = np.arange(60) % 2
        x = RNG.integers(0, 100, (60, 4, 5, 6)) + 100 * y[:, None, None, None]
        np.savez(tmp_path / "data" / f"{silo}.npz", train_x=x.astype(np.uint8), train_y=y)
    sets = ["data.source=npz", "data.kind=volumes", "model.settings.widths=[4,4,4]"]
    model, script = exported(tmp_path, tmp_path / "data", *sets)
    assert model.shape == (1, 4, 5, 6)
    np.save(tmp_path / "new.npy", x[:5].astype(np.uint8))
    check(model, script, tmp_path / "new.npy", monkeypatch, capsys)
    (tmp_path / "scan.nii").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="npy of"):
        printed(script, tmp_path / "scan.nii", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("linear", (5,)),
        ("convnet_gn", (1, 8, 8)),
        ("digitmodel", (3, 8, 8)),
        ("resnet20", (3, 8, 8)),
        ("gru", (2, 9)),
        ("unet", (1, 9, 8)),
        ("resnet18", (3, 32, 32)),
        ("vit_tiny_patch16_224", (3, 32, 32)),
        ("torchvision/mobilenet_v3_small", (3, 32, 32)),
    ],
)
def test_the_code_of_a_network_gives_the_library_s_names(name, shape):
    plan = model_spec(name, shape, 0)
    net = plan.net(3)
    named = {plan.library_name(key): value.shape for key, value in net.state_dict().items()}
    model = SimpleNamespace(
        settings=SimpleNamespace(name=name),
        shape=shape,
        data=SimpleNamespace(width=3),
        plan=plan,
        nets=lambda: {"": net},
    )
    weights = {plan.library_name(key): plan.library_tensor(key, one) for key, one in net.state_dict().items()}
    x = torch.randn(2, *shape)
    with torch.no_grad():
        wanted = net.eval()(x)
    names = {"nn": nn, "torch": torch}
    lines = "\n    ".join(network_code(model).splitlines())
    exec(f"from collections import OrderedDict\ndef network():\n    {lines}", names)
    rebuilt = names["network"]()
    assert {key: value.shape for key, value in rebuilt.state_dict().items()} == named
    rebuilt.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.eval()(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", ["name=convnet1d settings.widths=[4,4,4]", "name=gru settings.width=4"])
def test_series(settings, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    for silo in "ab":
        y = np.arange(60) % 2
        x = RNG.normal(size=(60, 9, 2)).cumsum(1) + y[:, None, None]
        np.savez(tmp_path / "data" / f"{silo}.npz", train_x=x, train_y=y)
    sets = ["data.source=npz", "data.sequence={}", *(f"model.{one}" for one in settings.split())]
    model, script = exported(tmp_path, tmp_path / "data", *sets)
    x[0, 3, 1] = np.nan
    np.save(tmp_path / "new.npy", x[:5])
    check(model, script, tmp_path / "new.npy", monkeypatch, capsys)
    (tmp_path / "new.csv").touch()
    with pytest.raises(SystemExit, match="pass series of measurements"):
        printed(script, tmp_path / "new.csv", monkeypatch, capsys)
