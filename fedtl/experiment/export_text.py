"""
The export of a text model: with its ``config.json`` and ``tokenizer.json`` the folder is one of Hugging Face's form, which transformers
reads, and fedtl as the model "hf-folder:PATH" of a next run.
"""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedtl.errors import ModelError
from fedtl.models.folder_files import CONFIG, TOKENIZER, is_folder_name
from fedtl.models.text_folder import WRAPPED, TextClassifier, read_config

if TYPE_CHECKING:
    from fedtl.experiment.predict import SiloModel

TOLERANCE = 1e-4
NETWORK = """\
from transformers import AutoConfig, AutoModelForSequenceClassification
table = json.loads((HERE / "config.json").read_text())
config = AutoConfig.for_model(table.pop("model_type"), **table)
class Texts(nn.Module):  # of codes [N, T]: 0 is no token, others are the number of a token plus 1
    def __init__(self):
        super().__init__()
        self.transformer = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    def load_state_dict(self, state):
        self.transformer.load_state_dict(state)
    def forward(self, x):
        codes = x.long()
        mask = (codes > 0) | (torch.arange(codes.shape[1]) == 0)
        ids = torch.where(codes > 0, codes - 1, {padding})
        return self.transformer(input_ids=ids, attention_mask=mask.long(){positions}).logits
return Texts()"""


def write_text_folder(model: "SiloModel", out: Path) -> list[str]:
    """Write ``config.json`` and ``tokenizer.json`` of a text model. Returns a line on each; [] for any other model."""
    if not is_folder_name(model.settings.name):
        return []
    names = dict(enumerate(model.classes)) or {number: str(number) for number in range(model.data.width)}
    config: Mapping[str, Any] = {
        **read_config(model.settings.name),
        "architectures": [type(_classifier(model).get_submodule(WRAPPED)).__name__],
        "num_labels": model.data.width,
        "id2label": names,
        "label2id": {name: number for number, name in names.items()},
    }
    (out / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    shutil.copyfile(model.experiment.data.tokenizer, out / TOKENIZER)
    return [
        f"{out / CONFIG}: the layers, as transformers reads it",
        f"{out / TOKENIZER}: how text becomes tokens",
    ]


@contextmanager
def checked_trace(model: "SiloModel", net: nn.Module, path: Path) -> Iterator[None]:
    """
    While a text model is traced to the ONNX file ``path``, hide the warnings on branches that tracing takes for constants; then compare the
    file's scores with the net's, on texts of every length. Nothing happens for other models. Raises ModelError.
    """
    if not is_folder_name(model.settings.name):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    try:
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise ModelError(
            "to compare it with the network needs a package: pip install 'fedtl[onnx]'"
        ) from error
    tokens = model.shape[0]
    codes = torch.randint(1, 4, (tokens, tokens), generator=torch.Generator().manual_seed(0)).float().tril()
    with torch.no_grad():
        expected = net(codes)
    scores: Any = ReferenceEvaluator(str(path)).run(None, {"x": codes.numpy()})
    found = torch.from_numpy(scores[0])
    if not bool((found - expected).abs().max() <= TOLERANCE * max(1.0, float(expected.abs().max()))):
        raise ModelError("tracing gives other scores than the network")


def text_network(model: "SiloModel") -> str:
    """Return the body of the function of predict.py that builds the network. Raises ModelError."""
    body = _classifier(model)
    positions = (
        "" if body.own_positions else ", position_ids=torch.arange(codes.shape[1]).expand(codes.shape)"
    )
    return NETWORK.format(padding=body.padding, positions=positions)


def _classifier(model: "SiloModel") -> TextClassifier:
    body = next(iter(model.nets().values())).get_submodule("body")
    if not isinstance(body, TextClassifier):
        raise ModelError("the network is not the model of its folder alone")
    return body
