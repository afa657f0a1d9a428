"""Everything wrong with an experiment is one line that names the thing; what is right survives being written."""

import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtl.data.registry import DATA
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import (
    load_experiment,
    parse_experiment,
    shipped_names,
    to_toml,
    with_changes,
)
from fedtl.experiment.config.resolve import describe, method_of, server_of
from fedtl.experiment.config.schema import Experiment
from fedtl.methods.registry import METHODS

SIMULATIONS = Path(__file__).resolve().parents[3] / "simulations"
NPZ = ('data.source="npz"', "data.path=.")
TABLE = ("data.source=table", "data.path=.")
TRIMMED = "method.server.name=trimmed"

# Overrides of the shipped experiment, and what the one line must say.
WRONG = {
    # a key that is none
    "roundz=2": 'mean "rounds"?',
    "data.limits=2": 'mean "data.limit"?',
    "train.lrr=2": 'mean "train.lr"?',
    "limit=2": 'mean "data.limit"?',
    "data.xyz=2": "[data] has source, path",
    "a.b.c=3": "seed, rounds",
    "data..x=3": '"data."',
    "x\ny=3": r'"x\ny"',
    "data.a.b=3": '"data.a"',
    "privacy=3": "privacy = 3: ",
    "privacy.epsilon=many": "privacy.epsilon = 'many': ",
    "privacy.epsilom=3": 'mean "privacy.epsilon"',
    "privacy.clip=2": "privacy.epsilon is missing",
    # a value of another type, or out of range
    "rounds=abc": "rounds = 'abc': ",
    "rounds=true": "rounds = True: ",
    "rounds=2.0": "rounds = 2.0: ",
    "rounds=0": "equal to 1",
    "rounds=": "rounds = ''",
    "rounds.x=3": "rounds = {'x': 3}: ",
    "rounds=1\nseed=2": r"rounds = '1\nseed=2'",
    "seed=-1": "seed = -1",
    "train.lr=fast": "train.lr = 'fast': ",
    "train.lr=true": "train.lr = True: ",
    "train.lr=nan": "train.lr = nan",
    "train.lr=inf": "train.lr = inf",
    "train.batch_size=1": "train.batch_size = 1",
    "data.size=foo": "data.size = 'foo': ",
    "data.size=0": "data.size = 0: ",
    "data.channels=2": "'native', 1 or 3",
    "data.channels=true": "data.channels = ",
    "data.late=plain": "data.late = 'plain': ",
    "data.columns=[1]": "data.columns[0] = 1: ",
    "data.test=nan": "data.test = nan",
    "data.label=2024": "data.label = 2024: ",
    "data=3": "data = 3: ",
    "method=fedavg": "method = 'fedavg': ",
    "method.terms=3": "method.terms = 3: ",
    "method.terms=[3]": "method.terms[0] = 3: ",
    "method.server=mean": "method.server = 'mean': ",
    "compare.methods=[]": "compare.methods = []: ",
    "compare.seeds=[-1]": "compare.seeds[0] = -1",
    'compare.seeds=["a"]': "compare.seeds[0] = 'a'",
    "silos_per_round=most": "silos_per_round = 'most': ",
    "silos_per_round=0": "silos_per_round = 0",
    "engine.name=thread": "'processes' or 'ray'",
    "model.dtype=float16": "model.dtype = 'float16'",
    f"data.label=[{'1,' * 99}1]": " ...: ",
    # a name that is none
    "method.name=fedavgg": "did you mean 'fedavg'",
    "method.name=": "method.name = ''",
    "data.source=digit": "data.source = 'digit'",
    'data.source=["digits"]': "data.source = ['digits']",
    "train.optimizer=sgdd": "sgd, adam",
    "method.server.name=meen": "mean, median, trimmed",
    "method.server.name=[]": "method.server.name = []",
    'method.terms=[{name="corall"}]': "method.terms[0].name = 'corall'",
    "method.terms=[{}]": "method.terms[0].name = None",
    "compare.metric=acc": "auto, accuracy",
    'compare.methods=["x"]': "compare.methods = 'x'",
    'compare.methods=["local","constant"]': 'lists "constant"',
    # a file or folder that is not there
    "data.source=npz": "data.path is empty",
    "data.source=npz data.path=nowhere": "nowhere does not exist",
    "data.path=\0": r"data.path = '\x00'",
    "data.path=~nobody-of-that-name/x": "~nobody-of-that-name/x",
    "model.weights=x.pt": "model.weights: ",
    "data.scale=foo": "data.scale = ",
    'model.pretrain_on=["npz:nowhere"]': "model.pretrain_on: ",
    'model.pretrain_on=["mnist:x"]': "model.pretrain_on = 'mnist'",
    "method=fedbn": "did you mean method.name = 'fedbn'?",
    # a method's own settings
    "method.mu=3": '"method.mu"',
    "method.name=fedprox method.muu=1": 'mean "method.mu"?',
    "method.name=fedprox method.mu=abc": "method.mu = 'abc'",
    "method.name=fedprox method.mu=true": "method.mu = True",
    "method.name=fedprox method.mu=-1": "method.mu = -1",
    "method.name=fedprox method.mu=nan": "method.mu = nan",
    "method.name=fedrep method.head_epochs=1.5": "method.head_epochs = 1.5",
    'method.terms=[{name="coral",wight=1}]': 'mean "method.terms[0].weight"?',
    "method.tune.epoch=1": 'mean "method.tune.epochs"?',
    "method.tune.what=body": "method.tune.what = 'body'",
    "method.tune.epochs=-1": "method.tune.epochs = -1",
    "method.tune.lr=0": "method.tune.lr = 0",
    "method.choose.candidates=[]": "method.choose.candidates",
    "method.choose.candidates=['mine']": "method.choose.candidates",
    "method.choose.candidates=['own','own']": "method.choose.candidates",
    "method.personalise.epochs=2": "[method.tune]",
    f"{TRIMMED} method.server.share=abc": "method.server.share = 'abc'",
    f"{TRIMMED} method.server.share=true": "method.server.share = True",
    f"{TRIMMED} method.server.share=0.7": "method.server.share = 0.7",
    "method.server.name=adam method.server.lrr=1": "method.server.lrr ",
    "method.server.name=adam method.server.lr=abc": "lr = 'abc'",
    "method.server.name=sgd method.server.lr=-1": "lr = -1",
    # two things that contradict each other
    "silos_per_round=2 minimum_silos=3": "minimum_silos = 3",
    "data.val=0.5 data.test=0.5": "data.val = 0.5",
    'model.weights=pretrained model.pretrain_on=["plain"]': "model.weights and model.pretrain_on",
    'data.late=["plain"] model.pretrain_on=["plain"]': "silo 'plain'",
    "train.optimizer=adam train.momentum=0.5": "train.momentum",
    'method.name=fedprox method.terms=[{name="proximal"}]': "part of 'fedprox'",
    'method.name=ditto method.terms=[{name="proximal"}]': "part of 'ditto'",
    'method.terms=[{name="proximal"},{name="proximal"}]': "method.terms[1] = 'proximal'",
    "method.server.share=0.2": "method.server.share ",
    "rounds=1 rounds=2": "--set rounds: ",
    "rounds=1 rounds.x=2": "--set rounds: ",
    "data.path=x": "data.path is set",
    "data.silo_column=x": "data.silo_column ",
    "data.split_column=x": "data.split_column ",
    " ".join(
        [*TABLE, "data.split_column=part", "data.target_domain=new", "data.domain_column=d"]
    ): "data.split_column and data.target_domain",
    "method.name=dann": "method 'dann'",
    "method.name=cdan method.pace=2.0": "method.pace",
    "method.name=jan method.widths=[]": "method.widths",
    "method.name=silo_mmd method.frequencies=0": "method.frequencies",
    "method.name=jdot method.entropy=0": "method.entropy",
    'method.terms=[{name="soft_labels"}] data.task=regression': "SoftLabels compares predicted classes",
    'method.terms=[{name="coral"}]': "data.target_domain",
    'data.silos=["plain","plain"]': "data.silos lists 'plain'",
    "compare.seeds=[1,1]": "compare.seeds lists 1",
    "compare.metric=r2": "compare.metric = 'r2'",
    "compare.metric=auc data.task=regression": "compare.metric = 'auc'",
    " ".join([*TABLE, "data.target_domain=new"]): "data.domain_column and data.target_domain",
    " ".join([*TABLE, "data.domain_column=new"]): "data.domain_column and data.target_domain",
    " ".join([*TABLE, 'data.columns=["label"]']): "data.columns lists 'label'",
    " ".join([*TABLE, "data.positive_above=1", "data.task=regression"]): "data.positive_above",
    "data.source=images data.path=. data.target_domain=new": 'data.target_domain: source "images"',
    # the override itself
    "rounds": "--set 'rounds' ",
    "=3": "--set '=3' ",
}


@pytest.mark.parametrize("overrides", WRONG)
def test_a_mistake_is_one_line_that_names_it(overrides):
    with pytest.raises(ConfigError) as error:
        load_experiment("digits", overrides.split(" "))
    assert WRONG[overrides] in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_further_mistakes_are_counted():
    with pytest.raises(ConfigError, match=r"^seed = 'z'.*2 more"):
        parse_experiment({"rounds": "x", "data": {"size": "y"}, "seed": "z"})


def test_a_changed_experiment_is_checked_again():
    experiment = load_experiment("digits")
    assert with_changes(experiment, seed=3).seed == 3
    with pytest.raises(ConfigError, match="seed = -3"):
        with_changes(experiment, seed=-3)
    with pytest.raises(ConfigError, match="minimum_silos = 3"):
        with_changes(experiment, silos_per_round=2, minimum_silos=3)
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 4


def test_files_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.toml"
    deep, long = b"rounds = " + b"[" * 5000, b"rounds = " + b"1" * 5000
    for content in (b"rounds = = 2", b"\xff\xfe", b"rounds = 1\nrounds = 2", deep, long):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken.toml") as error:
            load_experiment(str(broken))
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="rounds"):
        load_experiment("digits", [deep.decode()])
    for name in ("nothing", "nothing.toml", "../digits", "x" * 5000, "\0"):
        with pytest.raises(ConfigError, match="shipped: digits"):
            load_experiment(name)


def test_a_bare_name_is_the_shipped_one_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_experiment("digits").rounds == 40
    (tmp_path / "digits").write_text("rounds = 3\n")
    assert load_experiment("digits").rounds == 3


def test_paths_are_where_their_file_says(tmp_path, monkeypatch):
    for place in ("there", "here"):
        for what in ("rows", "public"):
            (tmp_path / place / what).mkdir(parents=True)
        (tmp_path / place / "w.pt").touch()
        (tmp_path / place / "scale.toml").touch()
    (tmp_path / "there" / "e.toml").write_text(
        'data = {source = "npz", path = "rows", scale = "scale.toml"}\nmodel = {weights = "w.pt"}\n'
    )
    monkeypatch.chdir(tmp_path / "here")
    its = load_experiment("../there/e.toml")
    there, here = tmp_path / "there", tmp_path / "here"
    assert (its.data.path, its.data.scale) == (str(there / "rows"), str(there / "scale.toml"))
    assert its.model.weights == str(there / "w.pt")
    its = load_experiment(
        "../there/e.toml", ["data.path=rows", "model.weights=", 'model.pretrain_on=["npz:public", "a"]']
    )
    assert its.data.path == str(here / "rows")
    assert its.data.scale == str(there / "scale.toml")
    assert its.model.pretrain_on == [f"npz:{here / 'public'}", "a"]
    assert (
        load_experiment("digits", ["data.scale=none", "model.weights=pretrained"]).model.weights
        == "pretrained"
    )
    assert load_experiment("digits", ['model.pretrain_on=["digits:"]']).model.pretrain_on == ["digits:"]


def test_overrides_are_toml_or_text():
    its = load_experiment(
        "digits", ["data.silos=['plain']", "train.lr=1", "compare.metric=auc", " rounds =7", "model.name=a=b"]
    )
    assert (its.data.silos, its.train.lr, its.compare.metric, its.rounds) == (["plain"], 1.0, "auc", 7)
    assert its.model.name == "a=b"
    its = load_experiment(
        "digits", ["method.name=fedprox", "method.mu=0.5", 'method.server={name="adam",lr=0.1}']
    )
    assert method_of(its.method).objective[-1].mu == 0.5
    assert dict(server_of(its.method).settings) == {"lr": 0.1}


def test_an_empty_table_takes_the_place_of_another(tmp_path):
    path = tmp_path / "e.toml"
    path.write_text(
        '[data]\nsource = "digits"\n[compare]\nmethods = ["fedavg", "ditto"]\n[compare.set.ditto.method]\nmu = 1.0\n'
    )
    assert load_experiment(str(path)).compare.set
    alone = load_experiment(str(path), ['compare.methods=["fedavg"]', "compare.set={}"])
    assert (alone.compare.methods, alone.compare.set) == (["fedavg"], {})


def test_the_metric_follows_the_task():
    assert Experiment().metric == "accuracy"
    assert parse_experiment({"data": {"task": "regression"}}).metric == "r2"
    assert parse_experiment({"compare": {"metric": "auc"}}).metric == "auc"


@pytest.mark.zoo
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_own_settings(name):
    for setting in filter(None, re.split(r", (?=\w+ = )", describe(METHODS[name]))):
        key, _, value = setting.partition(" = ")
        target = ["data.target_domain=plain"] if METHODS[name]().needs_target else []
        target += ["data.public=['plain']"] if name in ("feddf", "fedmd") else []
        its = load_experiment("digits", [f"method.name={name}", f"method.{key}={value}", *target])
        assert its.method.own == tomllib.loads(f"{key} = {value}")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PARTS = {
    "seed": st.integers(0, 2**40),
    "rounds": st.integers(1, 1000),
    "silos_per_round": st.one_of(st.just("all"), st.integers(1, 50)),
    "data": st.fixed_dictionaries(
        {},
        optional={
            "silos": st.lists(TEXT, unique=True),
            "size": st.one_of(st.just("native"), st.integers(1, 4096)),
            "channels": st.sampled_from(["native", 1, 3]),
            "val": st.floats(0, 0.4),
            "limit": st.integers(0, 9999),
            "label": TEXT,
            "target_domain": TEXT,
            "scale": st.sampled_from(["silo", "none"]),
        },
    ),
    "model": st.fixed_dictionaries({}, optional={"name": TEXT, "freeze": st.integers(0, 9)}),
    "train": st.fixed_dictionaries(
        {}, optional={"lr": st.floats(1e-9, 1e9), "momentum": st.floats(0, 0.999)}
    ),
    "method": st.sampled_from(
        [
            {"name": "fedprox", "mu": 0.25},
            {"name": "fedrep", "head_epochs": 0},
            {"name": "fedavg", "terms": [{"name": "proximal", "mu": 1.0}]},
            {"name": "local", "tune": {"what": "all", "epochs": 3}},
            {"server": {"name": "trimmed", "share": 0.2}},
            {"server": {"name": "adam", "lr": 0.1, "betas": [0.5, 0.9]}},
        ]
    ),
    "compare": st.fixed_dictionaries(
        {}, optional={"seeds": st.lists(st.integers(0, 99), min_size=1, unique=True)}
    ),
}


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(table=st.fixed_dictionaries({}, optional=PARTS))
def test_what_is_written_is_read_again(table, tmp_path):
    first = parse_experiment(table)
    path = tmp_path / "e.toml"
    path.write_text(to_toml(first), encoding="utf-8")
    assert load_experiment(str(path)) == first
    assert to_toml(load_experiment(str(path))) == to_toml(first)
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    assert load_experiment(str(path)) == first


def test_a_table_with_all_its_keys_survives(tmp_path):
    data = {"source": "table", "path": str(tmp_path), "positive_above": 0.5, "columns": ["a b", "c"]}
    data |= {
        "categories": {"a b": ["x", "y.z"]},
        "silo_column": "s",
        "domain_column": "d",
        "target_domain": "n",
    }
    first = parse_experiment({"data": data})
    path = tmp_path / "e.toml"
    path.write_text(to_toml(first))
    assert load_experiment(str(path)) == first


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_experiments_load(name):
    assert load_experiment(name).data.source in DATA


def test_a_folder_in_the_place_of_an_experiment_is_answered_with_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run", "rows", "digits"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "experiment.toml").touch()
    for name, way_out in (("run", "run/experiment.toml"), ("rows", "fedtl new DIR --data rows")):
        with pytest.raises(ConfigError, match=way_out):
            load_experiment(name)
    assert load_experiment("digits").data.source == "digits"  # also beside a folder of its results


@pytest.mark.parametrize("path", sorted(SIMULATIONS.glob("*.toml")), ids=lambda path: path.stem)
def test_simulations_load_where_their_data_is(path):
    try:
        load_experiment(str(path))
    except ConfigError as error:
        missing = "does not exist" in str(error) or "there is no file" in str(error)
        if not missing:
            raise
        pytest.skip(str(error))


INFINITE = ["method.mu=inf", "method.mu='inf'", 'method.mu="inf"', "method.mu=+inf"]


@pytest.mark.parametrize("setting", INFINITE)
@pytest.mark.parametrize("name", ["ditto", "mrmtl", "armul"])
def test_an_infinite_strength_needs_no_quotes(name, setting):
    experiment = load_experiment("digits", [f"method.name={name}", setting])
    assert experiment.method.own == {"mu": "inf"}


def test_infinite_strengths_in_a_list_need_no_quotes():
    grid = load_experiment("digits", ["method.name=mrmtl", "method.grid=[0.0, inf]"])
    assert grid.method.own == {"grid": [0.0, "inf"]}
    tried = load_experiment("digits", ["compare.methods=['ditto']", "compare.tune.method.mu=[0.1, inf]"])
    assert tried.compare.tune.method == {"mu": [0.1, "inf"]}
    for value in ("-inf", "nan"):
        with pytest.raises(ConfigError, match=f"method.mu = {value}"):
            load_experiment("digits", ["method.name=ditto", f"method.mu={value}"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [("epsilon=-1", "epsilon = -1: "), ("clip='a'", "clip = 'a': "), ("delta=2", "delta = 2: ")],
)
def test_a_wrong_value_of_one_silos_privacy_is_named_with_its_key(setting, said):
    with pytest.raises(ConfigError) as caught:
        load_experiment("digits", ["privacy.epsilon=3", f"silo.faint.privacy.{setting}"])
    assert str(caught.value).startswith(f"silo.faint.privacy.{said}")
    assert "input_value" not in str(caught.value)
