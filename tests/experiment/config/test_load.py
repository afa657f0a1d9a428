"""Everything wrong with an experiment is one line that names the thing; what is right survives being written."""

import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtl.data.registry import DATA
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import but, dump, load, parse, shipped_names
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
    "roundz=2": '"roundz" is not a setting; did you mean "rounds"?',
    "data.limits=2": '"data.limits" is not a setting; did you mean "data.limit"?',
    "train.lrr=2": 'did you mean "train.lr"?',
    "limit=2": '"limit" is not a setting; did you mean "data.limit"?',
    "data.xyz=2": '"data.xyz" is not a setting; there are data.source, data.path',
    "a.b.c=3": '"a" is not a setting; there are seed, rounds',
    "data..x=3": '"data." is not a setting',
    "x\ny=3": r'"x\ny" is not a setting',
    "data.a.b=3": '"data.a" is not a setting',
    "privacy=3": "privacy = 3: must be a table",
    "privacy.epsilon=many": "privacy.epsilon = 'many': must be a number",
    "privacy.epsilom=3": 'did you mean "privacy.epsilon"',
    "privacy.clip=2": "privacy.epsilon is not given, and has no default",
    # a value of another type, or out of range
    "rounds=abc": "rounds = 'abc': must be a whole number",
    "rounds=true": "rounds = True: must be a whole number",
    "rounds=2.0": "rounds = 2.0: must be a whole number",
    "rounds=0": "rounds = 0: must be greater than or equal to 1",
    "rounds=": "rounds = ''",
    "rounds.x=3": "rounds = {'x': 3}: must be a whole number",
    "rounds=1\nseed=2": r"rounds = '1\nseed=2'",
    "seed=-1": "seed = -1",
    "train.lr=fast": "train.lr = 'fast': must be a number",
    "train.lr=true": "train.lr = True: must be a number",
    "train.lr=nan": "train.lr = nan",
    "train.lr=inf": "train.lr = inf",
    "train.batch_size=1": "train.batch_size = 1",
    "data.size=foo": "data.size = 'foo': must be 'native' or a whole number",
    "data.size=0": "data.size = 0: must be 'native' or greater than or equal to 1",
    "data.channels=2": "data.channels = 2: must be 'native', 1 or 3",
    "data.channels=true": "data.channels = ",
    "data.late=plain": "data.late = 'plain': must be a list",
    "data.columns=[1]": "data.columns[0] = 1: must be text",
    "data.test=nan": "data.test = nan",
    "data.label=2024": "data.label = 2024: must be text, in quotes",
    "data=3": "data = 3: must be a table",
    "method=fedavg": "method = 'fedavg': must be a table",
    "method.terms=3": "method.terms = 3: must be a list",
    "method.terms=[3]": "method.terms[0] = 3: must be a table",
    "method.server=mean": "method.server = 'mean': must be a table",
    "compare.methods=[]": "compare.methods = []: must be a list of at least one",
    "compare.seeds=[-1]": "compare.seeds[0] = -1",
    'compare.seeds=["a"]': "compare.seeds[0] = 'a'",
    "silos_per_round=most": "silos_per_round = 'most': must be 'all' or a whole number",
    "silos_per_round=0": "silos_per_round = 0",
    "engine.name=thread": "engine.name = 'thread': must be 'serial', 'processes' or 'ray'",
    "model.dtype=float16": "model.dtype = 'float16'",
    f"data.label=[{'1,' * 99}1]": " ...: must be text",
    # a name that is none
    "method.name=fedavgg": "method.name = 'fedavgg' is not one of local, probe, pooled, fedavg",
    "method.name=": "method.name = ''",
    "data.source=digit": "data.source = 'digit' is not one of digits, npz, images, table; did you mean 'digits'?",
    'data.source=["digits"]': "data.source = ['digits']",
    "train.optimizer=sgdd": "train.optimizer = 'sgdd' is not one of sgd, adam",
    "method.server.name=meen": "method.server.name = 'meen' is not one of mean, median, trimmed",
    "method.server.name=[]": "method.server.name = []",
    'method.terms=[{name="corall"}]': "method.terms[0].name = 'corall' is not one of dann, mmd, coral, proximal",
    "method.terms=[{}]": "method.terms[0].name = None",
    "compare.metric=acc": "compare.metric = 'acc' is not one of auto, accuracy",
    'compare.methods=["x"]': "compare.methods = 'x' is not one of",
    # a file or folder that is not there
    "data.source=npz": "data.path is empty",
    "data.source=npz data.path=nowhere": "nowhere does not exist; source 'npz' reads from there",
    "data.path=\0": r"data.path = '\x00' is no path",
    "data.path=~nobody-of-that-name/x": "data.path = '~nobody-of-that-name/x' is no path",
    "model.weights=x.pt": "model.weights: there is no file",
    "data.scale=foo": 'data.scale is "silo", "none", "dp" or a TOML file of constants; there is no file',
    'model.pretrain_on=["npz:nowhere"]': "model.pretrain_on: ",
    'model.pretrain_on=["mnist:x"]': "model.pretrain_on = 'mnist' is not one of digits, npz",
    # a method's own settings
    "method.mu=3": '"method.mu" is not a setting',
    "method.name=fedprox method.muu=1": 'did you mean "method.mu"?',
    "method.name=fedprox method.mu=abc": "method.mu = 'abc': must be a number",
    "method.name=fedprox method.mu=true": "method.mu = True: must be a number",
    "method.name=fedprox method.mu=-1": "method.mu = -1: must be",
    "method.name=fedprox method.mu=nan": "method.mu = nan: must be a finite number",
    "method.name=fedrep method.head_epochs=1.5": "method.head_epochs = 1.5: must be",
    'method.terms=[{name="coral",wight=1}]': 'did you mean "method.terms[0].weight"?',
    "method.personalise.epoch=1": 'did you mean "method.personalise.epochs"?',
    "method.personalise.what=body method.personalise.epochs=1": "method.personalise.what = 'body'",
    "method.personalise.epochs=-1": "method.personalise.epochs = -1",
    f"{TRIMMED} method.server.share=abc": "method.server.share = 'abc': must be a number",
    f"{TRIMMED} method.server.share=true": "method.server.share = True: must be a number",
    f"{TRIMMED} method.server.share=0.7": "method.server.share = 0.7",
    "method.server.name=adam method.server.lrr=1": "method.server.lrr is not a setting of 'adam'",
    "method.server.name=adam method.server.lr=abc": "method.server: 'adam' does not take lr = 'abc'",
    "method.server.name=sgd method.server.lr=-1": "method.server: 'sgd' does not take lr = -1",
    # two things that contradict each other
    "silos_per_round=2 minimum_silos=3": "silos_per_round = 2 can never give minimum_silos = 3",
    "data.val=0.5 data.test=0.5": "data.test = 0.5 and data.val = 0.5 leave no training rows",
    'model.weights=pretrained model.pretrain_on=["plain"]': "both say where the backbone starts",
    'data.late=["plain"] model.pretrain_on=["plain"]': "silo 'plain' is in data.late and in model.pretrain_on",
    "train.optimizer=adam train.momentum=0.5": "train.momentum belongs to \"sgd\", not to 'adam'",
    "method.name=fedbabu method.personalise.epochs=2": "method.personalise and 'fedbabu'",
    'method.name=fedprox method.terms=[{name="proximal"}]': "'proximal' is already part of 'fedprox'",
    'method.terms=[{name="proximal"},{name="proximal"}]': "method.terms[1] = 'proximal' is already part of",
    "method.server.share=0.2": "method.server.share belongs to \"trimmed\", not to 'mean'",
    "rounds=1 rounds=2": "--set names rounds twice",
    "rounds=1 rounds.x=2": "--set names rounds twice",
    "data.path=x": "data.path is set, but source 'digits' reads no path",
    "data.silo_column=x": "data.silo_column is for source \"table\", not 'digits'",
    "method.name=dann": "method 'dann' adapts to a second domain; data.target_domain does not name one",
    'method.terms=[{name="coral"}]': "data.target_domain does not name one",
    'data.silos=["plain","plain"]': "data.silos lists 'plain' 2 times",
    "compare.seeds=[1,1]": "compare.seeds lists 1 2 times",
    "compare.metric=r2": "compare.metric = 'r2' does not measure classification",
    "compare.metric=auc data.task=regression": "compare.metric = 'auc' does not measure regression",
    " ".join([*TABLE, "data.target_domain=new"]): "data.domain_column and data.target_domain go together",
    " ".join([*TABLE, "data.domain_column=new"]): "data.domain_column and data.target_domain go together",
    " ".join([*TABLE, 'data.columns=["label"]']): "data.columns lists 'label', which is data.label",
    " ".join([*TABLE, "data.positive_above=1", "data.task=regression"]): "data.positive_above",
    "data.source=images data.path=. data.target_domain=new": 'source "images" has no second domain',
    # the override itself
    "rounds": "--set 'rounds': write it as key=value",
    "=3": "--set '=3': write it as key=value",
}


@pytest.mark.parametrize("overrides", WRONG)
def test_a_mistake_is_one_line_that_names_it(overrides):
    with pytest.raises(ConfigError) as error:
        load("digits", overrides.split(" "))
    assert WRONG[overrides] in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_further_mistakes_are_counted():
    with pytest.raises(ConfigError, match=r"^seed = 'z': must be a whole number \(and 2 more\)$"):
        parse({"rounds": "x", "data": {"size": "y"}, "seed": "z"})


def test_a_changed_experiment_is_checked_again():
    experiment = load("digits")
    assert but(experiment, seed=3).seed == 3
    with pytest.raises(ConfigError, match="seed = -3"):
        but(experiment, seed=-3)
    with pytest.raises(ConfigError, match="can never give"):
        but(experiment, silos_per_round=2, minimum_silos=3)
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 4


def test_files_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.toml"
    for content in (b"rounds = = 2", b"\xff\xfe", b"rounds = 1\nrounds = 2"):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.toml is not TOML: ") as error:
            load(str(broken))
        assert "\n" not in str(error.value)
    for name in ("nothing", "nothing.toml", str(tmp_path), "../digits", "x" * 5000, "\0"):
        with pytest.raises(ConfigError, match=r"there is no file .*, and the shipped experiments are digits"):
            load(name)


def test_a_bare_name_is_the_shipped_one_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("digits").rounds == 40
    (tmp_path / "digits").write_text("rounds = 3\n")
    assert load("digits").rounds == 3


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
    its = load("../there/e.toml")
    there, here = tmp_path / "there", tmp_path / "here"
    assert (its.data.path, its.data.scale) == (str(there / "rows"), str(there / "scale.toml"))
    assert its.model.weights == str(there / "w.pt")
    its = load(
        "../there/e.toml", ["data.path=rows", "model.weights=", 'model.pretrain_on=["npz:public", "a"]']
    )
    assert its.data.path == str(here / "rows")
    assert its.data.scale == str(there / "scale.toml")
    assert its.model.pretrain_on == [f"npz:{here / 'public'}", "a"]
    assert load("digits", ["data.scale=none", "model.weights=pretrained"]).model.weights == "pretrained"
    assert load("digits", ['model.pretrain_on=["digits:"]']).model.pretrain_on == ["digits:"]


def test_overrides_are_toml_or_text():
    its = load(
        "digits", ["data.silos=['plain']", "train.lr=1", "compare.metric=auc", " rounds =7", "model.name=a=b"]
    )
    assert (its.data.silos, its.train.lr, its.compare.metric, its.rounds) == (["plain"], 1.0, "auc", 7)
    assert its.model.name == "a=b"
    its = load("digits", ["method.name=fedprox", "method.mu=0.5", 'method.server={name="adam",lr=0.1}'])
    assert method_of(its.method).pulls[0].mu == 0.5
    assert dict(server_of(its.method).settings) == {"lr": 0.1}


def test_the_metric_follows_the_task():
    assert Experiment().metric == "accuracy"
    assert parse({"data": {"task": "regression"}}).metric == "r2"
    assert parse({"compare": {"metric": "auc"}}).metric == "auc"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_own_settings(name):
    for setting in filter(None, describe(METHODS[name]).split(", ")):
        key, _, value = setting.partition(" = ")
        target = ["data.target_domain=plain"] if METHODS[name]().needs_target else []
        its = load("digits", [f"method.name={name}", f"method.{key}={value}", *target])
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
            {"name": "local", "personalise": {"what": "all", "epochs": 3}},
            {"server": {"name": "trimmed", "share": 0.2}},
            {"server": {"name": "adam", "lr": 0.1, "betas": [0.5, 0.9]}},
        ]
    ),
    "compare": st.fixed_dictionaries(
        {}, optional={"seeds": st.lists(st.integers(0, 99), min_size=1, unique=True)}
    ),
}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(table=st.fixed_dictionaries({}, optional=PARTS))
def test_what_is_written_is_read_again(table, tmp_path):
    first = parse(table)
    path = tmp_path / "e.toml"
    path.write_text(dump(first), encoding="utf-8")
    assert load(str(path)) == first
    assert dump(load(str(path))) == dump(first)
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    assert load(str(path)) == first


def test_a_table_with_all_its_keys_survives(tmp_path):
    data = {"source": "table", "path": str(tmp_path), "positive_above": 0.5, "columns": ["a b", "c"]}
    data |= {
        "categories": {"a b": ["x", "y.z"]},
        "silo_column": "s",
        "domain_column": "d",
        "target_domain": "n",
    }
    first = parse({"data": data})
    path = tmp_path / "e.toml"
    path.write_text(dump(first))
    assert load(str(path)) == first


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_experiments_load(name):
    assert load(name).data.source in DATA


@pytest.mark.parametrize("path", sorted(SIMULATIONS.glob("*.toml")), ids=lambda path: path.stem)
def test_simulations_load_where_their_data_is(path):
    try:
        load(str(path))
    except ConfigError as error:
        missing = "does not exist" in str(error) or "there is no file" in str(error)
        if not missing:
            raise
        pytest.skip(str(error))
