"""A loss or a step that cannot matter to the silos that there are is refused or noted, over all losses and methods."""

from inspect import signature

import pytest

from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.few_labels import joined_notes, label_notes
from fedtl.methods.registry import ADAPTATION, METHODS, SOURCE_FREE, TERMS
from tests.experiment.runs import do, same, small, tensors

THREE = 'data.silos=["plain", "inverted", "faint"]'
UNLABELLED = "data.unlabelled=['faint']"


def with_term(name, *settings):
    strong = ", weight=5" if "weight" in signature(TERMS[name]).parameters else ""
    return small(f"method.terms=[{{name={name!r}{strong}}}]", THREE, *settings)


@pytest.mark.parametrize("name", ADAPTATION)
def test_a_loss_within_a_silo_needs_a_silo_with_and_without_labels(name):
    with pytest.raises(ConfigError, match=f"^{name} compares rows .* use silo_mmd"):
        with_term(name, "method.name=silobn", UNLABELLED)
    for both in ("data.label_fraction={plain=0.5}", 'data.missing_labels="inputs"'):
        with_term(name, "method.name=silobn", UNLABELLED, both)
    with_term(name, "method.name=silobn", "data.target_domain=inverted")
    with_term(name, "method.name=pooled", UNLABELLED)  # all rows are in one place
    with pytest.raises(ConfigError, match="second domain"):
        with_term(name, "method.name=silobn", "data.label_fraction={plain=1.0}")


@pytest.mark.parametrize("name", SOURCE_FREE)
def test_a_loss_on_rows_without_labels_needs_a_method_that_trains_where_they_are(name):
    with pytest.raises(ConfigError, match=f"^{name} trains on rows"):
        with_term(name, "method.name=local", UNLABELLED)
    with_term(name, "method.name=local", "data.label_fraction=0.5")
    for method in ("silobn", "pooled"):
        with_term(name, f"method.name={method}", UNLABELLED)


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The shared model of the same settings without the loss."""
    path = tmp_path_factory.mktemp("without") / "run"
    do(path, small("method.name=silobn", UNLABELLED, THREE))
    return tensors(path)["shared.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TERMS.own if name not in ADAPTATION])
def test_a_loss_that_is_not_refused_beside_a_silo_without_labels_changes_the_shared_model(
    name, without, tmp_path
):
    do(tmp_path / "with", with_term(name, "method.name=silobn", UNLABELLED))
    ours = tensors(tmp_path / "with")["shared.safetensors"]
    assert any(not ours[key].equal(without[key]) for key in without)


@pytest.mark.zoo
@pytest.mark.parametrize("name", METHODS.own)
def test_a_method_with_a_step_at_silos_without_labels_alone_says_that_there_are_none(name):
    method = METHODS[name]()
    if method.needs_target:  # refused without such rows
        return
    public = ["data.public=['blurred']"] if name in ("feddf", "fedmd") else []
    experiment = small(f"method.name={name}", *public)
    alone = any(step.at == "unlabelled" for step in method.finish)
    found = [
        note
        for note in label_notes(experiment, method_of(experiment.method), ["plain"])
        if "no effect" in note
    ]
    assert len(found) == alone
    if alone:
        assert name in ("shot", "autodial")
        assert found[0].startswith(f"{name} fits")
        assert "use another method" in found[0]
        given = small(f"method.name={name}", UNLABELLED)
        assert "no effect" not in " ".join(label_notes(given, method_of(given.method), ["plain", "faint"]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "plain"), [("shot", "silobn"), ("autodial", "fedavg")])
def test_such_a_method_has_no_effect_then(name, plain, tmp_path):
    result = do(tmp_path / "a", small(f"method.name={name}", THREE))
    do(tmp_path / "b", small(f"method.name={plain}", THREE))
    shared = [tensors(tmp_path / one)["shared.safetensors"] for one in "ab"]
    assert same({"": shared[0]}, {"": shared[1]})
    assert any("no effect" in note for note in result["notes"])


def test_a_comparison_says_once_that_labels_are_not_used():
    notes = []
    for name in ("local", "silobn", "fedavg", "shot"):
        one = small(f"method.name={name}", UNLABELLED)
        notes += ["another note", *label_notes(one, method_of(one.method), ["plain", "faint"])]
    other, note = joined_notes(notes)
    assert other == "another note"
    assert note.count("not used at faint") == note.count("test labels") == 1
    for part in ("local gives them no model", "; silobn adapts", "; fedavg adapts", "; shot fits"):
        assert part in note
