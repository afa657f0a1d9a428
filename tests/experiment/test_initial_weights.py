"""A head comes along with first weights only where its outputs mean the labels of the run that starts from them."""

import json

import pytest
import torch

from fedtl.experiment.initial_weights import FirstWeights
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.methods.sets import model_part
from fedtl.privacy.taint import Label
from fedtl.simulation.shared_store import temporary_store
from tests.experiment.runs import do, small

AB, XY = ("a", "b"), ("x", "y")
STATE = {"body.w": torch.ones(1), "head.weight": torch.ones(2, 1)}


def first(tmp_path, beside, classes, labels):
    """First weights from a file beside which ``beside`` holds the labels ``classes``, in a run with heads for ``labels``."""
    if beside:
        (tmp_path / beside).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / beside).write_text(json.dumps({"classes": classes}))
    origin = dict.fromkeys(STATE, Label.PUBLIC)
    return FirstWeights("w.pth", STATE, origin).for_labels(tmp_path / "w.pth", labels)


@pytest.mark.parametrize("beside", ["model.json", "silos/one/inputs.json", "inputs.json"])
def test_labels_beside_the_file_are_compared(tmp_path, beside):
    kept = first(tmp_path, beside, AB, [AB, AB])
    assert kept.state.keys() == STATE.keys()
    assert kept.notes == []
    for theirs in (XY, ("b", "a"), ("a", "c")):
        left = first(tmp_path, beside, theirs, [AB])
        assert left.state.keys() == left.labels.keys() == {"body.w"}
        (note,) = left.notes
        assert f"for {', '.join(theirs)}, not for a, b: not used" in note


def test_silos_with_labels_of_their_own_do_not_get_one_head(tmp_path):
    for beside in ("model.json", ""):
        left = first(tmp_path, beside, AB, [AB, XY])
        assert left.state.keys() == {"body.w"}
        assert "not for a, b and for x, y" in left.notes[0]


def test_a_head_of_unknown_labels_is_used_with_a_note(tmp_path):
    kept = first(tmp_path, "", (), [AB, AB])
    assert kept.state.keys() == STATE.keys()
    assert "a, b, in this order" in kept.notes[0]
    values = first(tmp_path, "model.json", (), [()])
    assert values.state.keys() == STATE.keys()
    assert "same unit" in values.notes[0]
    (tmp_path / "model.json").write_text("damaged")
    assert "in this order" in first(tmp_path, "", (), [AB]).notes[0]


def test_the_shared_file_of_a_method_with_slots_is_a_start_for_another(tmp_path):
    do(tmp_path / "run", small("rounds=1", "method.name=scaffold"))
    with temporary_store() as shelf:
        weights = small(f"model.weights={tmp_path / 'run' / 'shared.safetensors'}")
        study = build(weights, shelf, shelf)
        initial = study.trainer.initial(len(study.schema.union))
    shared = model_part(RunFolder(tmp_path / "run").tensors("shared.safetensors"))
    assert shared.keys() <= initial.keys()
    assert all(torch.equal(initial[name], shared[name]) for name in shared)
