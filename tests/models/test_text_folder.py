"""A transformer from a local folder: its scores are those of transformers, its roles follow from types, and nothing in it is run."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedtl.errors import ModelError
from fedtl.experiment.initial_weights import read_first_weights
from fedtl.models.adapted import AdapterPlan, with_adapters
from fedtl.models.registry import check_model_name, model_spec
from fedtl.models.roles import Role, roles
from fedtl.models.text_folder import read_config
from tests.models.text_folders import need_transformers, write_folder

TOKENS = 12
TEXTS = [[2, 5, 4, 16, 3], [2, 3], [2, 7, 5, 10, 9, 8, 6, 3]]


def codes_of(texts):
    codes = torch.zeros(len(texts), TOKENS)
    for row, text in zip(codes, texts, strict=True):
        row[: len(text)] = torch.tensor(text) + 1.0
    return codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    need_transformers()
    path = tmp_path_factory.mktemp("models") / "bert"
    write_folder(path)
    return path


def spec_of(path, tokens=TOKENS):
    return model_spec(f"hf-folder:{path}", (tokens,), 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_scores_are_those_of_transformers_for_each_text_by_itself(kind, tmp_path):
    need_transformers()
    theirs = write_folder(tmp_path / "one", kind, "SequenceClassification", num_labels=3)
    spec = spec_of(tmp_path / "one")
    first = read_first_weights(tmp_path / "one" / "model.safetensors", spec, 3)
    assert first.notes == []
    net = spec.net(3).eval()
    net.fill(first.state)
    with torch.no_grad():
        ours = net(codes_of(TEXTS))
        for row, text in zip(ours, TEXTS, strict=True):  # without padding and without a mask
            torch.testing.assert_close(row, theirs(torch.tensor([text])).logits[0], atol=1e-5, rtol=1e-5)
    assert {spec.library_name(name) for name in net.state_dict()} == set(theirs.state_dict())
    assert [spec.net_name(spec.library_name(name)) for name in net.state_dict()] == list(net.state_dict())


@pytest.mark.slow
def test_roles_follow_from_types(folder):
    of = roles(spec_of(folder).net(3))
    norms = {name for name, role in of.items() if role is Role.NORM}
    assert len(norms) == 10  # two for each layer and one after the embeddings, each with scale and shift
    assert all("LayerNorm" in name for name in norms)
    assert {name for name, role in of.items() if role is Role.HEAD} == {"head.weight", "head.bias"}
    assert set(of.values()) == {Role.BODY, Role.NORM, Role.HEAD}


def test_adapters_find_the_layers_of_attention(folder):
    """Queries, keys and values of two layers, by the type of the module that has them; the rest is frozen."""
    adapted = with_adapters(spec_of(folder), AdapterPlan(where=["attention"]), (TOKENS,))
    of = roles(adapted.net(2))
    assert sum(role is Role.ADAPTER for role in of.values()) == 2 * 3
    assert {name for name, role in of.items() if role in (Role.BODY, Role.NORM)} - adapted.frozen == set()


def test_weights_of_another_task_give_the_transformer_and_say_what_is_left_out(folder):
    first = read_first_weights(folder / "model.safetensors", spec_of(folder), 2)
    file = load_file(folder / "model.safetensors")
    assert len(first.state) == sum(name.startswith("bert.") for name in file) > 30
    for name, tensor in first.state.items():
        torch.testing.assert_close(tensor, file[name.removeprefix("body.transformer.")])
    used, pooled, head = first.notes
    assert "cls.predictions.bias and 4 more tensors" in used
    assert "without bert.pooler.dense.bias, bert.pooler.dense.weight;" in pooled
    assert "without head" in head


def changed(folder, tmp_path, change):
    file = tmp_path / "model.safetensors"
    save_file(
        {new: one for name, one in load_file(folder / "model.safetensors").items() if (new := change(name))},
        file,
    )
    return read_first_weights(file, spec_of(folder), 2)


def old_names(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize(
    "change", [old_names, lambda name: name.startswith("bert.") and name[5:]], ids=["old", "bare"]
)
def test_names_of_older_files_and_of_the_transformer_alone_are_known(change, folder, tmp_path):
    plain = read_first_weights(folder / "model.safetensors", spec_of(folder), 2).state
    found = changed(folder, tmp_path, change).state
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda name: "layer.1.output" not in name and name, "more of the body are missing"),
        (lambda name: name.replace("layer.1.", "layer.7."), "that the model does not have"),
    ],
)
def test_weights_of_another_transformer_are_refused(change, says, folder, tmp_path):
    with pytest.raises(ModelError, match=says):
        changed(folder, tmp_path, change)


def with_config(folder, tmp_path, **changes):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    table = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(table))
    return tmp_path


def test_code_and_kernels_that_a_folder_names_are_not_run(folder, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    named = {"auto_map": {"AutoModelForSequenceClassification": "evil.Model", "AutoConfig": "evil.Model"}}
    kernel = {"attn_implementation": "somebody/kernel", "_attn_implementation": "somebody/kernel"}
    with_config(folder, tmp_path, **named, **kernel, quantization_config={"quant_method": "bitsandbytes"})
    net, plain = spec_of(tmp_path).net(2).eval(), spec_of(folder).net(2).eval()
    assert not (tmp_path / "ran").exists()
    assert read_config(f"hf-folder:{tmp_path}").keys().isdisjoint({*named, *kernel, "quantization_config"})
    torch.testing.assert_close(net(codes_of(TEXTS)), plain(codes_of(TEXTS)))
    with pytest.raises(
        ModelError,
        match="for model_type 'evil'",
    ):
        spec_of(with_config(folder, tmp_path, model_type="evil"))


@pytest.mark.parametrize(
    ("changes", "tokens", "says"),
    [
        ({}, 41, "data.text_width = 41, but .* reads at most 40 tokens; set data.text_width = 40"),
        ({"vocab_size": 20}, TOKENS, "has 69 tokens, and the model only 20"),
        ({"hidden_size": 15}, TOKENS, "transformers cannot build it: .*not a multiple"),
        ({"model_type": None}, TOKENS, "names no model_type"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(changes, tokens, says, folder, tmp_path):
    with pytest.raises(ModelError, match=says) as error:
        spec_of(with_config(folder, tmp_path, **changes), tokens)
    assert "\n" not in str(error.value)


def test_the_name_is_known():
    check_model_name("hf-folder:/anywhere")
