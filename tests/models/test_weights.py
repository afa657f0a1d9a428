"""Weights from files: what fits is loaded, and code in a file does not run."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from fedtl.errors import ModelError
from fedtl.models import weights
from fedtl.models.registry import custom_spec, model_spec
from fedtl.models.roles import Role, roles
from tests.models import zoo


@pytest.fixture
def plan():
    return model_spec("convnet", (1, 8, 8), 0)


def fitted(file, plan, width=3):
    net = plan.net(width)
    return weights.fit_weights(file, net.state_dict(), roles(net), plan, "the file")


def other_state(width=3):
    plan = model_spec("convnet", (1, 8, 8), 9)
    return plan, {name: value.clone() for name, value in plan.net(width).state_dict().items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_file_round_trips(tmp_path, plan, suffix):
    other, state = other_state()
    library = {other.library_name(name): value for name, value in state.items()}
    path = tmp_path / f"weights{suffix}"
    save_file(library, path) if suffix == ".safetensors" else torch.save(library, path)
    file = weights.read_weights(path)
    assert file.keys() == library.keys()
    taken, notes = fitted(file, plan)
    assert notes == []
    assert taken.keys() == state.keys()
    assert all(torch.equal(taken[name], state[name]) for name in state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_wrappers_and_the_parallel_prefix_are_taken_off(tmp_path, plan, wrapper):
    other, state = other_state()
    library = {f"module.{other.library_name(name)}": value for name, value in state.items()}
    torch.save({wrapper: library, "epoch": 3}, tmp_path / "w.pth")
    taken, _ = fitted(weights.read_weights(tmp_path / "w.pth"), plan)
    assert taken.keys() == state.keys()


class Evil:
    """An object that runs code when it is unpickled."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return (open, (self.where, "w"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_pickled_code_is_refused_and_does_not_run(tmp_path, suffix):
    trace = tmp_path / "it-ran"
    path = tmp_path / f"evil{suffix}"
    torch.save({"features.0.weight": torch.zeros(1), "x": Evil(str(trace))}, path)
    with pytest.raises(ModelError, match=r"weights_only.*safetensors"):
        weights.read_weights(path)
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Evil(str(trace))))
    with pytest.raises(ModelError, match="weights_only"):
        weights.read_weights(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes()).close()  # the object does run code
    assert trace.exists()


def test_files_without_weights(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        weights.read_weights(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="there is no file"):
        weights.read_weights(tmp_path)
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 40)
    for absent in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(ModelError, match=r"holds noise\.safetensors"):
            weights.read_weights(absent)
    with pytest.raises(ModelError, match="not a safetensors file"):
        weights.read_weights(tmp_path / "noise.safetensors")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(ModelError, match="plain tensors"):
        weights.read_weights(tmp_path / "noise.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ModelError, match="state_dict of tensors"):
        weights.read_weights(tmp_path / "epoch.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="state_dict of tensors"):
        weights.read_weights(tmp_path / "list.pth")


def test_a_body_tensor_of_another_shape_is_an_error(plan):
    other, state = other_state()
    library = {other.library_name(name): value for name, value in state.items()}
    library["features.0.weight"] = torch.zeros(32, 3, 3, 3)
    with pytest.raises(ModelError, match=r"\(32, 3, 3, 3\)"):
        fitted(library, plan)


def test_a_body_tensor_that_is_missing_or_unknown_is_an_error(plan):
    other, state = other_state()
    library = {other.library_name(name): value for name, value in state.items()}
    for gone in ("features.0.weight", "features.1.weight", "features.1.running_var"):
        with pytest.raises(ModelError, match=f"tensor 'body.{gone}'"):
            fitted({name: value for name, value in library.items() if name != gone}, plan)
    with pytest.raises(ModelError, match=r"'body\.stranger' and 0"):
        fitted({**library, "stranger": torch.zeros(1)}, plan)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.model."]
)
def test_prefixes_of_compiled_wrapped_and_nested_models_are_taken_off(plan, prefix):
    other, state = other_state()
    library = {prefix + other.library_name(name): value for name, value in state.items()}
    library = {name.replace("features.", "features._orig_mod."): value for name, value in library.items()}
    taken, notes = fitted(library, plan)
    assert notes == []
    assert all(torch.equal(taken[name], state[name]) for name in state)


def test_a_child_called_body_is_no_sign_of_fedtl():
    spec = custom_spec(lambda shape: (zoo.BodyChild(), "fc"), "mine", (zoo.COLUMNS,), 0)
    torch.manual_seed(3)
    whole = zoo.BodyChild().state_dict()
    for file in (whole, {spec.net_name(name): value for name, value in whole.items()}):
        taken, notes = fitted(file, spec)
        assert notes == []
        assert torch.equal(taken["body.body.weight"], whole["body.weight"])
        assert torch.equal(taken["head.weight"], whole["fc.weight"])


def test_tied_weights_have_either_name_or_both_in_a_file():
    spec = custom_spec(lambda shape: (zoo.Tied(), "fc"), "mine", (zoo.COLUMNS,), 0)
    whole = zoo.Tied().state_dict()
    for without in ("b.weight", "c.weight", ""):
        taken, _ = fitted({name: value for name, value in whole.items() if name != without}, spec)
        assert torch.equal(taken["body.b.weight"], whole["b.weight"])
        assert "body.c.weight" not in taken
    with pytest.raises(ModelError, match=r"c\.weight and b\.weight"):
        fitted({**whole, "c.weight": whole["c.weight"] + 1}, spec)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.tensor(float("nan")), r"NaN in features\.1\.weight"),
        (torch.tensor(1e300, dtype=torch.float64), r"not finite in features\.1\.weight"),
        (torch.tensor(3, dtype=torch.int8), r"features\.1\.weight is torch.int8"),
        (torch.tensor(1j), r"features\.1\.weight is torch.complex64"),
    ],
)
def test_a_value_that_no_weight_can_have_is_refused(plan, value, reason):
    other, state = other_state()
    library = {other.library_name(name): tensor for name, tensor in state.items()}
    library["features.1.weight"] = value.expand(32).clone()
    with pytest.raises(ModelError, match=reason):
        fitted(library, plan)


@pytest.mark.parametrize("other_kind", [lambda tensor: tensor.to_sparse(), lambda tensor: tensor.to("meta")])
def test_a_tensor_of_another_kind_is_refused(plan, other_kind):
    other, state = other_state()
    library = {other.library_name(name): tensor for name, tensor in state.items()}
    library["features.1.weight"] = other_kind(library["features.1.weight"])
    with pytest.raises(ModelError, match=r"features\.1\.weight is sparse"):
        fitted(library, plan)


def test_a_counter_of_one_value_may_have_any_shape(plan):
    other, state = other_state()
    library = {other.library_name(name): tensor for name, tensor in state.items()}
    counters = [name for name in library if name.endswith("num_batches_tracked")]
    taken, _ = fitted(library | dict.fromkeys(counters, torch.tensor([7])), plan)
    assert counters
    assert all(taken[plan.net_name(name)].item() == 7 for name in counters)
    assert all(taken[plan.net_name(name)].shape == () for name in counters)


def test_a_convolution_as_classifier_is_read_as_a_linear_head():
    spec = custom_spec(lambda shape: (zoo.FlatConv(), "fc"), "mine", (zoo.COLUMNS,), 0)
    whole = zoo.FlatConv().state_dict()
    taken, _ = fitted(whole, spec)
    assert torch.equal(taken["head.weight"], whole["fc.weight"][..., 0, 0])


def test_a_head_of_another_width_is_left_out_with_a_note(plan):
    other, state = other_state(width=10)
    taken, notes = fitted({other.library_name(name): value for name, value in state.items()}, plan, width=3)
    assert taken.keys() == {name for name in state if not name.startswith("head.")}
    assert any("head.weight" in note and "(10, 64)" in note and "(3, 64)" in note for note in notes)
    assert any("without head;" in note for note in notes)


def test_a_file_written_by_fedtl_may_hold_only_shared_roles(plan):
    _, state = other_state()
    found = roles(plan.net(3))
    shared = {name: value for name, value in state.items() if found[name] in (Role.BODY, Role.HEAD)}
    taken, notes = fitted(shared, plan)
    assert taken.keys() == shared.keys()
    (note,) = notes
    assert "without norm, stats;" in note
    with pytest.raises(ModelError, match=r"tensor 'body\.features\.0\.weight'"):
        fitted({name: value for name, value in shared.items() if name != "body.features.0.weight"}, plan)


def test_half_precision_is_converted_to_the_models_type(plan):
    other, state = other_state()
    half = {other.library_name(n): v.half() if v.is_floating_point() else v for n, v in state.items()}
    taken, _ = fitted(half, plan)
    assert all(taken[name].dtype == state[name].dtype for name in state)


def test_real_weights_load_into_resnet20(shared_data):
    path = shared_data("pretrained-cifar10-resnet20") / "resnet20.safetensors"
    plan = model_spec("resnet20", (3, 32, 32), 0)
    net = plan.net(10)
    taken, _ = weights.fit_weights(weights.read_weights(path), net.state_dict(), roles(net), plan, path.name)
    assert {name for name in net.state_dict() if not name.endswith("num_batches_tracked")} <= taken.keys()
    net.load_state_dict(taken, strict=False)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in taken.items())
    narrow, notes = weights.fit_weights(
        weights.read_weights(path), plan.net(2).state_dict(), roles(plan.net(2)), plan, path.name
    )
    assert "head.weight" not in narrow
    assert len(notes) >= 2
