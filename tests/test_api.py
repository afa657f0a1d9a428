"""The Python API: fast to import, complete, and its documented examples run."""

import doctest
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import fedtl
from fedtl import errors
from fedtl.api.frames import comparison_verdicts
from fedtl.experiment.config.load import to_toml
from tests.commands import ForkedPython

DOCUMENT = Path(__file__).parents[1] / "docs" / "python.md"


def examples():
    """The page's sections in order; a later one may use names of an earlier one."""
    return [text for text in DOCUMENT.read_text().split("\n## ") if ">>>" in text]


def test_there_are_five_examples():
    assert len(examples()) >= 5


def test_the_documented_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, text in enumerate(examples()):
        parsed = doctest.DocTestParser().get_doctest(text, names, f"example {number + 1}", str(DOCUMENT), 0)
        runner, output = doctest.DocTestRunner(verbose=False), []
        runner.run(parsed, out=output.append, clear_globs=False)
        names = parsed.globs
        assert not runner.failures, "".join(output)


def in_new_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_import_is_fast_and_needs_no_torch():
    code = (
        "import sys, time; start = time.process_time(); import fedtl; "
        "print(time.process_time() - start, any(name.split('.')[0] in ('torch', 'numpy', 'pandas') for name in sys.modules))"
    )
    runs = [in_new_python(code).split() for _ in range(3)]
    assert {loaded for _, loaded in runs} == {"False"}
    assert min(float(seconds) for seconds, _ in runs) < 0.05


def test_every_public_name_exists_and_is_listed():
    assert set(fedtl.__all__) <= set(dir(fedtl))
    for name in fedtl.__all__:
        assert getattr(fedtl, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        fedtl.nonsense  # noqa: B018


def test_audit_is_a_function_whatever_was_imported_before():
    code = "import fedtl, fedtl.audit.audit; print(callable(fedtl.audit))"
    assert ForkedPython(code).communicate().strip() == "True"
    with pytest.raises(errors.ConfigError, match="not a run folder"):
        fedtl.audit("/nonexistent")


@pytest.mark.parametrize(
    "change", [{"rounds": 7}, {"train": {"lr": 0.3}}, {"method": {"name": "fedprox", "mu": 0.5}}]
)
def test_settings_replace_those_of_the_source(change):
    plain = fedtl.load_experiment("digits")
    changed = fedtl.load_experiment("digits", **change)
    again = fedtl.load_experiment(plain, **change)
    assert changed == again != plain
    assert changed.data == plain.data
    if "train" in change:
        assert (changed.train.lr, changed.train.batch_size) == (0.3, plain.train.batch_size)


def banks(names="ab"):
    rng = np.random.default_rng(3)
    table = {"income": rng.normal(size=60), "job": ["clerk", "nurse"] * 30, "late": np.arange(60) // 3 % 2}
    return {name: pd.DataFrame(table) for name in names}


BANKS = {
    "rounds": 1,
    "model": {"name": "mlp"},
    "data": {"label": "late", "categories": {"job": ["clerk", "nurse"]}},
}


def test_frames_may_have_columns_of_text_and_need_no_source():
    """One input for each value of a category, and no source to name: the rows are there."""
    loaded = fedtl.load_datasets(BANKS, banks())
    assert {name: data.train.x.shape[1] for name, data in loaded.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("settings", "data", "said"),
    [
        (BANKS, list(banks().values()), "data is of type list"),
        (BANKS, banks()["a"], "data is of type DataFrame"),
        (BANKS, {**banks(), "b": banks()["b"].drop(columns="income")}, "silo b has no column 'income'"),
        (BANKS, {**banks(), "b": banks()["b"].assign(age=1.0)}, "silo a has no column 'age'"),
        ({**BANKS, "train.lr": 0.1}, banks(), 'write {"train": {"lr": ...}}'),
        (BANKS, {1: banks()["a"]}, "silo name 1 is of type int"),
        (BANKS, {"a": None}, "its rows are of type NoneType"),
        (BANKS, {"a": pd.concat([banks()["a"]] * 2, axis=1)}, "two columns are named"),
        (BANKS, {"a": ((row for row in "ab"), [0, 1])}, "train_x is of type generator"),
        (None, banks(), "the experiment is of type NoneType"),
    ],
)
def test_mistakes_with_rows_in_memory_are_named(settings, data, said):
    with pytest.raises(errors.UserError) as caught:
        fedtl.load_datasets(settings, data)
    assert said in str(caught.value)


def test_a_mistake_leaves_no_folder(tmp_path):
    with pytest.raises(errors.DataError):
        fedtl.run(
            BANKS, {**banks(), "b": banks()["b"].drop(columns="income")}, out=tmp_path / "run", workers=1
        )
    assert not (tmp_path / "run").exists()


def test_errors_are_fedtls_own_and_one_line():
    for call in (
        lambda: fedtl.load_experiment({"round": 3}),
        lambda: fedtl.load_experiment("no-such-file.toml"),
        lambda: fedtl.create_method("fedbm"),
        lambda: fedtl.create_method("fedprox", nu=1.0),
        lambda: fedtl.create_model("convnot", (1, 8, 8), 2),
        lambda: fedtl.create_model("convnet", (1, 8, 8), 2, width=3),
        lambda: fedtl.create_model("mlp", 4, 2),
        lambda: fedtl.create_model("mlp", (4,), 0),
        lambda: fedtl.create_method("fedbn").plus("proximal"),
        lambda: fedtl.Method(shared="body"),
        lambda: fedtl.Method(shared=fedtl.Role.BODY),
        lambda: fedtl.roles({}),
        lambda: fedtl.run("digits", workers=0),
        lambda: fedtl.run("digits", device="tpu"),
        lambda: fedtl.load_run("/nonexistent"),
    ):
        with pytest.raises(errors.UserError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_create_method_and_model_are_those_of_an_experiment():
    assert fedtl.create_method("fedprox", mu=0.5).objective[1].mu == 0.5
    assert fedtl.create_method("fedbn").shared == frozenset(fedtl.Role) - {
        fedtl.Role.NORM,
        fedtl.Role.STATS,
        fedtl.Role.COUNT,
        fedtl.Role.EXTRA,
        fedtl.Role.SUMMARY,
    }
    first, second = (fedtl.create_model("mlp", (5,), 3, seed=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first(torch.zeros(2, 5)).shape == (2, 3)
    small = fedtl.create_model("convnet", (1, 8, 8), 3, widths=(4, 8, 8))
    assert small.head.in_features == 8
    assert set(fedtl.list_methods()) >= {"local", "fedavg", "fedbn", "fedtl"}
    assert set(fedtl.list_models()) >= {"convnet", "mlp"}


def rows(seed, columns=4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, columns)) * 3 + seed
    return x, np.where(x[:, 0] > seed, "b", "a")


SETTINGS = {"rounds": 2, "seed": 3, "model": {"name": "mlp"}, "method": {"name": "fedavg"}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    data = {"one": rows(0), "two": rows(1)}
    return fedtl.run(SETTINGS, data, out=tmp_path_factory.mktemp("api") / "run", workers=1), data


def test_rows_in_memory_give_the_bits_of_the_same_rows_in_files(finished, tmp_path):
    run, data = finished
    (tmp_path / "data").mkdir()
    for name, (x, y) in data.items():
        np.savez(tmp_path / "data" / f"{name}.npz", train_x=x, train_y=y)
    files = fedtl.run(
        {**SETTINGS, "data": {"source": "npz", "path": str(tmp_path / "data")}},
        out=tmp_path / "run",
        workers=1,
    )
    assert files.metrics.equals(run.metrics)
    shared = "shared.safetensors"
    assert (files.path / shared).read_bytes() == (run.path / shared).read_bytes()


def test_arrays_tensors_and_frames_are_the_same_rows(finished, tmp_path):
    run, data = finished
    tensors = {name: (torch.from_numpy(x), list(y)) for name, (x, y) in data.items()}
    frames = {name: pd.DataFrame(x, columns=list("pqrs")).assign(label=y) for name, (x, y) in data.items()}
    same = fedtl.run(SETTINGS, tensors, out=tmp_path / "tensors", workers=1)
    named = fedtl.run(SETTINGS, frames, out=tmp_path / "frames", workers=1)
    assert same.metrics.equals(run.metrics)
    assert np.allclose(named.metrics, run.metrics, atol=1e-6)
    x = frames["one"].drop(columns="label")
    assert (named.model("one").predict(x) == run.model("one").predict(x.to_numpy())).all()
    with pytest.raises(errors.DataError, match="no column 'p'"):
        named.model("one").predict(x.rename(columns={"p": "z"}))


def test_tables_hold_the_numbers_of_the_files(finished):
    run, _ = finished
    result = run.result
    for silo, own in result.silos.items():
        assert run.metrics.loc[silo].to_dict() == dict(own.measured.figures)
        assert tuple(run.table.loc[silo, ["train", "val", "test"]]) == (own.train, own.val, own.test)
    assert set(run.history.index) == {(number, silo) for number in (1, 2) for silo in ("one", "two")}
    opened = fedtl.load_run(run.path)
    assert opened.result == result


def test_predictions_are_those_that_were_tested(finished):
    """The accuracy of predict on the silo's test rows is the accuracy in the result."""
    from safetensors.torch import load_file

    run, data = finished
    x, y = data["one"]
    kept = load_file(run.path / "silos" / "one" / "test.safetensors")
    ids = kept["ids"].numpy()
    model = run.model("one")
    assert (model.predict(x[ids]) == y[ids]).mean() == pytest.approx(run.metrics.loc["one", "accuracy"])
    assert np.allclose(model.scores(x[ids]), kept["scores"].numpy(), atol=1e-5)
    assert np.allclose(model.probabilities(x[ids]).sum(1), 1.0, atol=1e-6)
    assert model.predict(torch.from_numpy(x[ids])).tolist() == model.predict(x[ids]).tolist()
    for no_rows in (None, {"age": [1.0]}, "rows.csv", pd.Series([1.0, "a"])):
        with pytest.raises(errors.DataError, match="array of numbers"):
            model.predict(no_rows)
    member = model._model.final.main
    head = [member.state[f"head.{name}"].numpy() for name in ("weight", "bias")]
    scores = model._model.trainer.scores(member.state, model._model.prepared(x[ids]), model._model.data)
    assert np.allclose(model.features(x[ids]) @ head[0].T + head[1], scores, atol=1e-4)


def test_the_module_is_plain_and_gives_the_models_scores(finished):
    run, data = finished
    model, x = run.model("two"), data["two"][0]
    inputs = model._model.inputs
    scaled = torch.from_numpy(inputs.apply(x))
    with torch.no_grad():
        assert np.allclose(model.module()(scaled).numpy(), model.scores(x), atol=1e-5)


def test_notebooks_show_the_table_and_escape_names(finished, tmp_path):
    run, data = finished
    page = run._repr_html_()
    assert "<table" in page
    assert "one" in page
    other = fedtl.run(SETTINGS, data, out=tmp_path / "<i>run", workers=1)
    assert "<i>" not in other._repr_html_()
    assert other.report().read_text().lower().startswith("<!doctype html>")


def test_a_run_prints_nothing(tmp_path, capfd):
    fedtl.run(SETTINGS, {"one": rows(0), "two": rows(1)}, out=tmp_path / "run", workers=1)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_datasets_are_the_prepared_rows(finished):
    _, data = finished
    datasets = fedtl.load_datasets(SETTINGS, data)
    assert isinstance(datasets["one"], fedtl.SiloDataset)
    assert datasets["one"].classes == ("a", "b")
    assert len(datasets["one"].train) + len(datasets["one"].val) < 60


def test_a_comparison_in_two_workers_and_its_tables(tmp_path):
    data = {"one": rows(0), "two": rows(1)}
    compared = fedtl.compare(
        SETTINGS, data, methods=["local", "fedavg"], seeds=[0, 1], out=tmp_path / "c", workers=2
    )
    result = compared.result
    assert list(compared.table.index) == ["local", "constant", "fedavg"]
    metric = result.metric
    for method in result.methods:
        for silo in ("one", "two"):
            value = result.methods[method][silo][metric]
            assert compared.table.loc[method, silo] == value.mean
            assert compared.metrics.loc[(method, silo, metric), "mean"] == value.mean
    assert set(compared.verdicts["verdict"]) <= {"gains", "as good", "loses", "unclear"}
    assert compared.overall.loc["fedavg", "mean_gain"] == result.overall["fedavg"].mean.mean
    assert compared.overall.loc["fedavg", "silos"] == 2
    wide = {name: replace(one, ci95=(-9.0, 9.0), detectable=9.0) for name, one in result.benefit.items()}
    shown = comparison_verdicts(replace(result, benefit=wide))[["low", "high", "detectable"]]
    assert shown.fillna(0.0).drop_duplicates().to_numpy().tolist() == [[-1.0, 1.0, 0.0]]  # of accuracy
    single = compared.run("fedavg", seed=1)
    assert single.result.seed == 1
    assert single.model("one").predict(data["one"][0][:3]).shape == (3,)
    assert fedtl.load_run(compared.path).result == result
    assert "<table" in compared._repr_html_()
    with pytest.raises(errors.ConfigError, match="fedxyz"):
        compared.run("fedxyz")


def plain_net(columns=4):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(columns, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))


def same_result(run, other):
    return run.metrics.equals(other.metrics) and run.history.equals(other.history)


def test_values_train_as_their_names_do(finished, tmp_path):
    """create_method and create_model give the values that the settings name."""
    run, data = finished
    by_value = fedtl.run(
        {**SETTINGS, "method": {"name": "fedbn"}},  # replaced
        data,
        method=fedtl.create_method("fedavg"),
        model=fedtl.create_model("mlp", (4,), 7, seed=3),
        out=tmp_path / "run",
        workers=1,
    )
    assert same_result(by_value, run)
    assert (by_value.result.method, by_value.result.model) == ("custom", "custom:Sequential")
    x = data["one"][0]
    assert np.array_equal(by_value.model("one").scores(x), run.model("one").scores(x))


def test_a_users_method_and_module_are_what_is_trained(finished, tmp_path):
    """With nothing shared and no phases the body that was passed is the body that is used."""
    _, data = finished
    net = plain_net()
    idle = fedtl.Method(shared=frozenset({fedtl.Role.BODY}), phases=())
    run = fedtl.run(SETTINGS, data, method=idle, model=net, out=tmp_path / "run", workers=1)
    used = run.model("one").module()
    assert torch.equal(used.body[0].weight, net[0].weight)
    assert used.head.out_features == 2
    built = fedtl.run(
        *(SETTINGS, data),
        method=idle,
        model=lambda shape: (plain_net(*shape), "2"),
        out=tmp_path / "b",
        workers=1,
    )
    assert same_result(built, run)
    assert built.result.model == "custom:model"


def test_a_folder_says_that_it_cannot_repeat_a_run_of_values(finished, tmp_path):
    _, data = finished
    path, method = tmp_path / "run", fedtl.Method(shared=frozenset({fedtl.Role.BODY}))
    fedtl.run(SETTINGS, data, method=method, out=path, workers=1)
    assert (
        (path / "experiment.toml")
        .read_text()
        .startswith("# A Python program passed the rows, the method 'custom'")
    )
    opened = fedtl.load_run(path)  # the model is of the table, so predictions need no value
    assert opened.model("one").predict(data["one"][0]).shape == (60,)
    assert opened.report().is_file()
    with pytest.raises(errors.ConfigError, match="method.name"):
        fedtl.run(opened.experiment, data, out=tmp_path / "again", workers=1)
    assert not (tmp_path / "again").exists()
    again = fedtl.run(opened.experiment, data, method=method, out=tmp_path / "again", workers=1)
    assert same_result(again, opened)
    with pytest.raises(errors.ConfigError, match="model was passed"):
        fedtl.load_run(path, model=plain_net())
    from fedtl.experiment.lint.findings import lint

    findings = lint(
        {**SETTINGS, "data": {"source": "digits"}, "method": {"name": "custom"}, "privacy": {"epsilon": 3.0}}
    )
    assert any("cannot be checked" in text for text in findings.unsound)
    assert not findings.holds


def test_a_folder_with_a_custom_model_predicts_with_that_model_only(finished, tmp_path):
    _, data = finished
    path = tmp_path / "run"
    run = fedtl.run(SETTINGS, data, model=plain_net(), out=path, workers=1)
    opened = fedtl.load_run(path)
    assert opened.metrics.equals(run.metrics)
    assert opened.report().is_file()
    with pytest.raises(errors.ConfigError, match="model.name"):
        opened.model("one")
    x = data["one"][0]
    assert np.array_equal(
        fedtl.load_run(path, model=plain_net()).model("one").scores(x), run.model("one").scores(x)
    )
    with pytest.raises(errors.ConfigError, match="do not fit"):
        fedtl.load_run(path, model=torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Linear(9, 2))).model(
            "one"
        )


def test_a_comparison_has_columns_of_values(finished, tmp_path):
    run, data = finished
    mine = fedtl.create_method("fedavg")
    compared = fedtl.compare(
        *(SETTINGS, data), methods=["local"], custom={"mine": mine}, seeds=[3], out=tmp_path / "c", workers=1
    )
    assert list(compared.table.index) == ["local", "constant", "custom:mine"]
    column = compared.run("custom:mine")
    assert column.metrics.equals(run.metrics)
    assert column.values.method is mine
    opened = fedtl.load_run(compared.path)
    assert opened.report().is_file()
    assert opened.run("custom:mine").model("two").predict(data["two"][0][:3]).shape == (3,)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: fedtl.run({"rounds": 1}, out=out), "data.source"),
        (lambda out: fedtl.compare(fedtl.load_experiment({"rounds": 1}, seed=2), out=out), "data.source"),
        (lambda out: fedtl.load_datasets({"rounds": 1}), "data.source"),
        (lambda out: fedtl.run("digits", method="fedbn", out=out), "fedtl.Method"),
        (lambda out: fedtl.run("digits", model="mlp", out=out), "torch.nn.Module"),
        (lambda out: fedtl.run("digits", model=torch.nn.ReLU(), out=out), "no Linear layer"),
        (lambda out: fedtl.run("digits", model=lambda s: 1, workers=2, out=out), "workers=1"),
        (lambda out: fedtl.compare("digits", custom={"../a": fedtl.Method()}, out=out), "at most 64"),
        (lambda out: fedtl.compare("digits", custom=[fedtl.Method()], out=out), "custom is of type list"),
        (lambda out: fedtl.compare("digits", seeds=0, out=out), "a list, such as [0]"),
        (lambda out: fedtl.compare("digits", methods="local,fedbn", out=out), '["local", "fedbn"]'),
        (lambda out: fedtl.run("digits", model=lambda s: plain_net(), workers=1, out=out), "return net"),
        (lambda out: fedtl.load_experiment("digits", method={"name": "custom:../a"}), "is unknown"),
        (
            lambda out: fedtl.run("digits", model=plain_net(), out=out, workers=1),
            "(1, 8, 8)",
        ),
        (
            lambda out: fedtl.load_experiment("digits", model={"name": "custom", "weights": "pretrained"}),
            "in no library",
        ),
    ],
)
def test_mistakes_with_values_are_one_line(call, said, tmp_path):
    with pytest.raises(errors.UserError) as caught:
        call(tmp_path / "run")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


SCRIPT = """
import fedtl
import numpy as np

rng = np.random.default_rng(0)
data = {name: (rng.normal(size=(60, 3)), np.arange(60) % 2) for name in "ab"}
fedtl.FUNCTION({"rounds": 1, "model": {"name": "mlp"}}, data, out="run", workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("function", ["run", pytest.param("compare", marks=pytest.mark.nightly)])
def test_a_script_without_a_main_guard_ends_with_one_line_that_says_so(tmp_path, function):
    (tmp_path / "script.py").write_text(SCRIPT.replace("FUNCTION", function))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1  # the script's own; its workers are silent
    last = done.stderr.splitlines()[-1]
    assert last.startswith("fedtl.errors.ConfigError: ")
    assert all(words in last for words in ('if __name__ == "__main__"', "script.py"))
    assert ("engine.workers = 1" in last) == (function == "run")


def test_a_comparison_is_not_audited_and_no_key_is_written_for_it(tmp_path):
    (tmp_path / "experiment.toml").write_text(to_toml(fedtl.load_experiment("digits")))
    (tmp_path / "comparison.json").touch()
    (tmp_path / "runs").mkdir()
    with pytest.raises(errors.ConfigError, match="is a comparison"):
        fedtl.audit(tmp_path)
    assert not (tmp_path / "audit-key.pem").exists()


@pytest.mark.slow
def test_an_audit_and_its_tables(tmp_path):
    """A private run with canaries and a transcript, as `fedtl audit` needs them."""
    (tmp_path / "data").mkdir()
    for seed, name in enumerate(("one", "two")):
        x, y = rows(seed)
        np.savez(tmp_path / "data" / f"{name}.npz", train_x=x, train_y=y)
    private = fedtl.load_experiment(
        SETTINGS,
        data={"source": "npz", "path": str(tmp_path / "data"), "classes": ["a", "b"], "scale": "none"},
        privacy={"epsilon": 8.0},
        audit={"canaries": 50, "transcript": 2},
    )
    run = fedtl.run(private, out=tmp_path / "run", workers=1)
    audit = fedtl.audit(run, quick=True)
    assert not audit.refuted, audit.result.violations
    assert audit.report().is_file()
    assert audit.table.loc["one", "epsilon"] == run.table.loc["one", "epsilon"]
    assert set(audit.verdicts["status"]) <= {"passed", "not exercised"}
    assert len(audit.verdicts) == len(audit.result.checks)
    assert "<table" in audit._repr_html_()
    assert "\n" not in repr(audit)


@pytest.mark.slow
def test_an_audit_of_rows_in_memory_and_of_values(tmp_path):
    """It needs the rows and the model of the run once more, and takes no others."""
    data, net = {"one": rows(0), "two": rows(1)}, plain_net()
    run = fedtl.run(
        fedtl.load_experiment(SETTINGS, audit={"transcript": 1}),
        data,
        model=net,
        out=tmp_path / "run",
        workers=1,
    )
    with pytest.raises(errors.ConfigError, match="in memory"):
        fedtl.audit(run, quick=True)
    with pytest.raises(errors.DataError, match="silo one"):
        fedtl.audit(run, {**data, "one": rows(5)}, quick=True)
    with pytest.raises(errors.ConfigError, match="model.name"):
        fedtl.audit(run.path, data, quick=True)
    audit = fedtl.audit(fedtl.load_run(run.path, model=net), data, quick=True)
    assert not audit.refuted
    assert audit.result.model == "custom:Sequential"
