"""
A transformer for text from a local folder of Hugging Face's form (``models.folder_files``).

Nothing is loaded from the network, and no code in the folder is run: ``config.json`` is read here and chooses among the models of the
transformers library by the name of their type, and weights are read by ``models.weights``. transformers is imported only when such a
model is used.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fedtl._util.torchvision_import import import_torchvision
from fedtl.errors import ModelError, first_line
from fedtl.models.downloads import without_network
from fedtl.models.folder_files import CONFIG, TOKENIZER, at_name, folder_file
from fedtl.models.net import ModelSpec, Shape, seeded_build
from fedtl.models.split import split_at_classifier

WRAPPED = "transformer"  # the library's model in TextClassifier
# Entries of a config.json that name code, kernels or another form of the weights, which are not read.
UNREAD = (
    *(
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "quantization_config",
        "dtype",
        "torch_dtype",
    ),
    *("num_labels", "id2label", "label2id", "problem_type", "return_dict", "use_return_dict", "torchscript"),
)


class TextClassifier(nn.Module):
    """
    A model of transformers with scores for whole texts, on rows of codes [N, T]: 0 where there is no token, and otherwise the number of
    the token plus 1. ``padding``: the number that stands where there is no token. ``own_positions``: the model counts positions from the
    tokens, as RoBERTa does, so none are passed.
    """

    def __init__(self, transformer: nn.Module, padding: int) -> None:
        super().__init__()
        self.transformer, self.padding, self.own_positions = transformer, padding, True

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores [N, K]. The first position is never left out, so that attention has something to read."""
        codes = x.long()
        there = codes > 0
        first = torch.arange(codes.shape[1], device=x.device) == 0
        given = {
            "input_ids": torch.where(there, codes - 1, self.padding),
            "attention_mask": (there | first).long(),
        }
        if (
            not self.own_positions
        ):  # one row of positions for each text, so that private training sees whose they are
            given["position_ids"] = torch.arange(codes.shape[1], device=x.device).expand(codes.shape)
        scores: Tensor = self.transformer(**given).logits
        return scores


def folder_spec(name: str, shape: Shape, seed: int, checkpointing: bool) -> ModelSpec:
    """
    Return the model of a folder for texts of ``shape`` (tokens,), with weights that depend only on ``seed``. Raises ModelError.
    """
    if checkpointing:
        raise ModelError("model.checkpointing: models of hf-folder do not offer it here; remove it")
    if len(shape) != 1:
        raise ModelError(f"{at_name(name)} takes tokens of text, not inputs of shape {shape}; set data.text")
    config = _config(name)
    _check_size(name, config, shape[0])
    classifier = f"{WRAPPED}.{_classifier(name, config)}"
    module = seeded_build(seed, lambda: _built(name, config))
    assert isinstance(module, TextClassifier)
    module.own_positions = not _counts_from_zero(module, shape[0])
    try:
        spec = split_at_classifier(module, classifier, shape, seed)
    except ModelError as error:
        raise ModelError(f"{at_name(name)}: {error}") from error
    return replace(spec, wrapper=f"{WRAPPED}.", core=_core(module.transformer, config))


def _core(transformer: Any, config: Any) -> frozenset[str]:
    """
    Return the names of the tensors that every file of weights holds, whatever task it was trained for: all of the transformer but a layer
    that pools, which models of missing words do not have.
    """
    prefix, auto = transformer.base_model_prefix, import_transformers().AutoModel
    names = set(transformer.base_model.state_dict())
    with torch.device("meta"), suppress(TypeError):  # a type without a layer that pools
        names &= set(auto.from_config(config, add_pooling_layer=False).state_dict())
    return frozenset(f"{prefix}.{name}" for name in names)


def import_transformers() -> Any:
    with suppress(ImportError):
        import_torchvision()  # transformers imports it where it is installed, so its missing operators must be defined first
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its warnings about a config.json
    try:
        import tokenizers  # noqa: F401
        import transformers
    except ImportError as error:
        raise ModelError("models of hf-folder need two packages: pip install 'fedtl[text]'") from error
    return transformers


def read_config(name: str) -> Mapping[str, Any]:
    """Return the entries of config.json that fedtl reads. Raises ModelError."""
    path = folder_file(name, CONFIG)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not JSON ({error}); put the model's own {CONFIG} there") from error
    if not isinstance(table, dict) or not isinstance(table.get("model_type"), str):
        raise ModelError(f"{path} names no model_type; put the model's own {CONFIG} there")
    return {key: value for key, value in table.items() if key not in UNREAD}


def _config(name: str) -> Any:
    """Return the configuration of transformers. Raises ModelError for a type of model that it does not have."""
    transformers, table = import_transformers(), dict(read_config(name))
    kind = table.pop("model_type")
    known = transformers.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if kind not in known:
        raise ModelError(
            f"{at_name(name)}: transformers {transformers.__version__} has no classification of texts for model_type {kind!r}, and code in a "
            "folder is not run; choose another model, such as a BERT"
        )
    try:
        with without_network():
            return transformers.AutoConfig.for_model(kind, **table)
    except Exception as error:  # each type of model raises errors of its own
        raise ModelError(f"{at_name(name)}: {CONFIG} is refused: {first_line(error)}") from error


def _check_size(name: str, config: Any, tokens: int) -> None:
    """Raise ModelError where the texts are longer than the model can read, or the tokenizer has more tokens than it knows."""
    from tokenizers import Tokenizer

    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < tokens:
        raise ModelError(
            f"data.text_width = {tokens}, but the model of {name} reads at most {most} tokens; set data.text_width = {most}"
        )
    path = folder_file(name, TOKENIZER)
    try:
        count = Tokenizer.from_file(str(path)).get_vocab_size()
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(
            f"{path} is not a tokenizer ({first_line(error)}); put the model's own there"
        ) from error
    if count > config.vocab_size:
        raise ModelError(
            f"{path} has {count} tokens, and the model only {config.vocab_size}; put the model's own tokenizer there"
        )


def _built(name: str, config: Any) -> nn.Module:
    padding = config.pad_token_id if isinstance(getattr(config, "pad_token_id", None), int) else 0
    auto = import_transformers().AutoModelForSequenceClassification
    try:
        with without_network():
            return TextClassifier(
                auto.from_config(config, attn_implementation="eager", dtype=torch.float32), padding
            )
    except Exception as error:  # as above
        raise ModelError(f"{at_name(name)}: transformers cannot build it: {first_line(error)}") from error


def _classifier(name: str, config: Any) -> str:
    """Return the path of the module whose tensors change shape with the number of labels. Raises ModelError."""
    shapes = []
    for count in (2, 3):
        config.num_labels = count
        with torch.device("meta"):
            module = _built(name, config)
        shapes.append({path: t.shape for path, t in module.get_submodule(WRAPPED).state_dict().items()})
    two, three = shapes
    owners = {path.rpartition(".")[0] for path in two if two[path] != three[path]}
    if len(owners) != 1:
        raise ModelError(f"{at_name(name)} has {len(owners)} classifiers; choose a model with one")
    return owners.pop()


@torch.no_grad()
def _counts_from_zero(module: TextClassifier, tokens: int) -> bool:
    """Return whether the model takes positions, and takes those from 0 on where it is given none."""
    x = torch.arange(2 * tokens).remainder(3).reshape(2, tokens)
    module.eval()
    try:
        own = module(x)
        module.own_positions = False
        return bool(torch.equal(module(x), own))
    except Exception:  # the model does not take this argument; other faults are reported when it is cut
        return False
