"""The ClientApp of Flower alone: one epoch of SGD in plain PyTorch. The load comes with the environment of the process."""

import json
import os
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

LOAD: dict[str, Any] = json.loads(os.environ["FEDTL_BENCH"])
CLASSES = 10
app = ClientApp()


def make_model() -> nn.Module:
    torch.manual_seed(0)
    if LOAD["model"] == "mlp":  # as fedtl's
        inputs = int(torch.Size(LOAD["shape"]).numel())
        body = [nn.Linear(inputs, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
        body += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *body, nn.Linear(64, CLASSES))
    from torchvision.models import get_model

    model: nn.Module = get_model(LOAD["model"].removeprefix("torchvision/"), num_classes=CLASSES)
    return model


def floats(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that can be averaged."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@app.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    model = make_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
    model.train()
    rows = torch.rand(LOAD["rows"], *LOAD["shape"])
    labels = torch.arange(LOAD["rows"]) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=LOAD["lr"], momentum=0.9)
    for batch in torch.randperm(len(rows)).split(LOAD["batch"]):
        optimizer.zero_grad()
        F.cross_entropy(model(rows[batch]), labels[batch]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(rows)})
    content = RecordDict({"arrays": ArrayRecord(floats(model)), "metrics": metrics})
    return Message(content=content, reply_to=message)
