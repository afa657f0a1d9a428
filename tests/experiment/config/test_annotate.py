"""``fedtl show`` prints every key with what it does, in TOML that gives the same experiment."""

import tomllib

import pytest

from fedtl.experiment.config.about import ABOUT
from fedtl.experiment.config.annotate import annotated_toml, keys
from fedtl.experiment.config.load import read_experiment, to_toml
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.config.settings_file import validate

PRIVATE = ["privacy.epsilon=3", "silo.plain.privacy.epsilon=1", 'silo.plain.model.name="mlp"']
ODD = [
    'method.terms=[{name="coral"}]',
    'method.server={name="trimmed", share=0.2}',
    'data.classes=["a \\"b\\"", "é, c"]',
    'data.bounds={"x.y"=[0.0, 1.0]}',
    "data.positive_above=1e-5",
    "data.deal.silos=3",
    "compare.tune.ditto.method.mu=[0.1, 1.0]",
    "compare.set={mrmtl={method={mu=1.0}}}",
]


def experiment(*overrides):
    return validate(Experiment, read_experiment("digits", list(overrides)))


def test_every_key_has_a_line_on_what_it_does():
    assert not [key for key in keys() if key not in ABOUT]
    assert not [key for key, about in ABOUT.items() if not about or "\n" in about or len(about) > 130]


@pytest.mark.parametrize("overrides", [[], PRIVATE, ODD, ["method.name=fedprox", "method.mu=0.5"]])
def test_it_is_toml_that_gives_the_same_experiment(overrides):
    first = experiment(*overrides)
    again = validate(Experiment, tomllib.loads(annotated_toml(first)))
    assert to_toml(again) == to_toml(first)


@pytest.mark.parametrize("overrides", [[], PRIVATE, ODD])
def test_every_key_is_printed_set_or_not(overrides):
    text = annotated_toml(experiment(*overrides))
    lines = [line.split("  # ")[0].strip("# ").split(" =")[0] for line in text.splitlines()]
    for key in keys():
        table, _, name = key.rpartition(".")
        assert any(
            one in lines for one in (name, f"[{key}]", f"[silo.<name>.{name}]", f"[silo.plain.{name}]")
        ), key
        assert not table or f"[{table}]" in lines or table == "silo"
        assert f"  # {ABOUT[key]}" in text


def test_what_is_not_set_is_a_comment():
    plain, private = annotated_toml(experiment()), annotated_toml(experiment(*PRIVATE))
    for line in ("# positive_above =", "# [privacy]", "# epsilon =", "# clip = 1.0"):
        assert f"\n{line} " in plain
        assert f"\n{line} " not in private or line == "# positive_above ="
    assert "\nepsilon = 3.0 " in private
    assert "\n[silo.plain.privacy] " in private
