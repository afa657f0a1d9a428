"""
The code of the Flower clients: ``train`` and ``validate`` of the floor between two messages.

This is a separate module so that Flower's actors can import it. An actor keeps model and rows between rounds, which is more than
the examples of Flower do.
"""

from functools import cache

import floor
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from loads import Load

from fedtl.data.dataset import SiloDataset


def train(message: Message, context: Context, load: Load, best: bool) -> Message:
    """``best``: also evaluate the received model, in the same message."""
    layout, data = _layout(best), _data(load, int(context.node_config["partition-id"]))
    net = _received(message, load, layout)
    metrics = floor.validate(net, data.val, layout) if best else {}
    floor.train(net, data.train, load, layout)
    record = MetricRecord({"num-examples": len(data.train), **metrics})
    content = RecordDict({"arrays": ArrayRecord(floats(net)), "metrics": record})
    return Message(content=content, reply_to=message)


def evaluate(message: Message, context: Context, load: Load, best: bool) -> Message:
    layout, data = _layout(best), _data(load, int(context.node_config["partition-id"]))
    metrics = floor.validate(_received(message, load, layout), data.val, layout)
    record = MetricRecord({"num-examples": len(data.val), **metrics})
    return Message(content=RecordDict({"metrics": record}), reply_to=message)


def floats(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that can be averaged."""
    return {name: tensor for name, tensor in net.state_dict().items() if tensor.is_floating_point()}


@cache
def _model(load: Load, layout: torch.memory_format) -> torch.nn.Module:
    torch.set_num_threads(1)
    return floor.model(load, layout)


@cache
def _data(load: Load, number: int) -> SiloDataset:
    return load.data(load.names()[number])


def _layout(best: bool) -> torch.memory_format:
    return floor.FAST if best else floor.NAIVE


def _received(message: Message, load: Load, layout: torch.memory_format) -> torch.nn.Module:
    net = _model(load, layout)
    net.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
    return net
