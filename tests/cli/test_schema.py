"""The JSON Schemas that ``fedtl schema`` prints accept the files that fedtl reads and writes, and refuse others."""

import json
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from jsonschema import Draft7Validator, Draft202012Validator, validators

from fedtl._util.records import to_plain
from fedtl.cli.schema import file_schemas
from fedtl.errors import ConfigError
from fedtl.experiment.config.about import ABOUT
from fedtl.experiment.config.load import parse_experiment
from fedtl.results.metrics import Measured, WorstSilo
from fedtl.results.run import HistoryLine, Mix, RunResult, SiloResult

ROOT = Path(__file__).parents[2]
SCHEMAS = file_schemas()
EXPERIMENTS = [
    path
    for folder in ("simulations", "fedtl/experiments")
    for path in sorted((ROOT / folder).rglob("*.toml"))
]
CONSTANTS = "school-constants"  # a file of constants, and no experiment


SETTINGS = ("experiment", "silo", "server")
ANNOTATIONS = {"$ref", "description", "default", "title"}


@pytest.fixture(scope="module", params=[Draft7Validator, Draft202012Validator], ids=["taplo", "newest"])
def experiment(request):
    """By the draft that Taplo knows, whatever the file names, and by the newest, which other editors know."""
    return request.param(SCHEMAS["experiment"]())


def nodes(schema):
    """Every schema within a schema."""
    yield schema
    for key in ("properties", "$defs"):
        for one in schema.get(key, {}).values():
            yield from nodes(one)
    for one in (*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")):
        yield from nodes(one) if isinstance(one, dict) else ()


@pytest.mark.parametrize("file", SETTINGS)
def test_the_schema_of_settings_is_one_that_taplo_reads(file):
    """It reads draft 7 and older, where what stands beside a reference says nothing: so no check may stand there."""
    schema = SCHEMAS[file]()
    assert schema["$schema"] == Draft7Validator.META_SCHEMA["$schema"]
    assert validators.validator_for(schema) is Draft7Validator
    Draft7Validator.check_schema(schema)
    found = [one for one in nodes(schema) if "$ref" in one]
    assert found or file == "server"
    assert [one for one in found if not one.keys() <= ANNOTATIONS] == []
    newer = {"prefixItems", "unevaluatedProperties", "dependentRequired", "dependentSchemas", "minContains"}
    assert [one for one in nodes(schema) if one.keys() & newer] == []


@pytest.mark.parametrize("file", SCHEMAS)
def test_a_schema_follows_the_draft(file):
    schema = SCHEMAS[file]()
    validators.validator_for(schema).check_schema(schema)


@pytest.mark.parametrize(
    "path", [path for path in EXPERIMENTS if path.stem != CONSTANTS], ids=lambda path: path.stem
)
def test_the_experiments_of_the_repository_are_accepted(path, experiment):
    experiment.validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize("path", sorted((ROOT / "clients").glob("*.toml")), ids=lambda path: path.name)
def test_the_sites_of_the_repository_are_accepted(path):
    Draft202012Validator(SCHEMAS["silo"]()).validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        *("round = 40", 'rounds = "40"', "rounds = 0", "[train]\nlr = -1.0", "[train]\nmomentum = 1"),
        *(
            "[data]\npaths = 'a'",
            "[method.tune]\nwhat = 'body'",
            "[privacy]\nclip = 1.0",
            "silo.a.models.x = 1",
        ),
        *("[compare]\nseeds = [-1]", "[data.deal]\nby = 'iid'", "[data]\nslices = { axis = 'x' }"),
    ],
)
def test_both_the_schema_and_fedtl_refuse(text, experiment):
    table = tomllib.loads(text)
    assert list(experiment.iter_errors(table))
    with pytest.raises(ConfigError):
        parse_experiment(table)


def test_every_key_has_its_line_in_the_schema(experiment):
    def description(path):
        key = experiment.schema
        for name in path.split("."):
            reference = key.get("$ref") or (key.get("additionalProperties") or {}).get("$ref")
            table = experiment.schema["$defs"][reference.rpartition("/")[2]] if reference else key
            key = table["properties"][name]
        return key["description"]

    assert {path: description(path) for path in ABOUT} == ABOUT


def result():
    silo = SiloResult(9, 1, 3, Measured({"accuracy": 0.5}, {"auc": "one class"}), Mix({"own": 1.0}, 1, 2))
    numbers = {"mean": {"accuracy": 0.5}, "mean_silos": {"accuracy": 1}, "bytes_up": 1, "bytes_down": 1}
    about = {"fedtl": "0", "method": "fedavg", "model": "mlp", "task": "classification", "metric": "accuracy"}
    return RunResult(
        **(numbers | about),
        **{"seed": 0, "rounds": 1, "silos": {"a": silo}, "worst": WorstSilo("a", {"accuracy": 0.5}, 1)},
        **{"notes": (), "seconds": 0.1, "device": "cpu", "workers": 1},
    )


def test_a_result_as_it_is_written_is_accepted():
    plain = json.loads(json.dumps(to_plain(result())))
    check = Draft202012Validator(SCHEMAS["result"]())
    check.validate(plain)
    assert check.schema["properties"].keys() == {field.name for field in fields(RunResult)}
    plain["silos"]["a"]["accuracy"] = "high"
    assert [error.json_path for error in check.iter_errors(plain)] == ["$.silos.a.accuracy"]
    del plain["silos"]["a"]["train"], plain["silos"]["a"]["accuracy"]
    assert ["train" in error.message for error in check.iter_errors(plain)] == [True]


def test_the_lines_of_a_history_are_accepted():
    """Of a round in which a silo was left out, of one with all keys, and no line with a misspelt key or without its bytes."""
    full = HistoryLine(2, 1, {"a": {}}, {}, 1, 1, 2, {"a": 3.0}, {"a": 0.5}, 0.25)
    few = HistoryLine(1, 0.5, {"a": {"loss": 1.0}}, {"b": "declined"}, 10, 20)
    check = Draft202012Validator(SCHEMAS["history"]())
    lines = [json.loads(json.dumps(to_plain(line))) for line in (few, full)]
    for line in lines:
        check.validate(line)
    assert (
        check.schema["properties"].keys() == {field.name for field in fields(HistoryLine)} == lines[1].keys()
    )
    lines[0]["byte_down"] = lines[0].pop("bytes_down")
    assert len(list(check.iter_errors(lines[0]))) == 2


def test_the_comparisons_key_of_an_interval_may_be_null():
    estimate = SCHEMAS["comparison"]()["$defs"]["Estimate"]
    assert {"type": "null"} in estimate["properties"]["ci95"]["anyOf"]
    assert estimate["required"] == ["mean", "ci95", "seeds"]


def test_a_file_that_fedtl_does_not_have_is_refused():
    from fedtl.cli.schema import schema

    with pytest.raises(ConfigError, match="results"):
        schema("results")
