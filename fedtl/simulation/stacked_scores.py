"""The metrics of the models that the silos of a stack received, from one pass over all silos' validation rows."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.utils.rnn import pad_sequence

from fedtl.messages import Task
from fedtl.models import precision
from fedtl.models.net import Net
from fedtl.models.state import State
from fedtl.training.batches import ROWS_AT_ONCE, to_inputs
from fedtl.training.evaluate import fits_statistics
from fedtl.training.metrics import quick
from fedtl.training.received import received_metrics
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer


def metrics_of_stack(
    trainer: Trainer, net: Net, silos: Sequence[Silo], task: Task, states: Sequence[State], val: Tensor
) -> list[Mapping[str, float]]:
    """
    Return the ``received_metrics`` of each silo, within rounding. ``net``: the stack, which holds ``states``; ``val``: as
    ``validation_rows``. A silo that would use another model than it received, such as one with exact statistics, has a pass of its own.
    """
    alone = [_uses_another_model(trainer, state, task) for state in states]
    scores = None if all(alone) or not val.shape[1] else _scores(trainer, net, val)
    metrics = []
    for number, (silo, state) in enumerate(zip(silos, states, strict=True)):
        rows = silo.data.val
        if alone[number] or scores is None or not len(rows):
            metrics.append(received_metrics(trainer, silo, task, state))
        else:
            its = silo.data.in_label_unit(scores[number, : len(rows)])
            metrics.append(quick(its, rows.y, silo.data.task))
    return metrics


def validation_rows(trainer: Trainer, silos: Sequence[Silo]) -> Tensor:
    """Return the validation inputs [K, N, ...] of K silos on the device, those of small silos padded."""
    return pad_sequence([silo.data.val.x for silo in silos], batch_first=True).to(trainer.device)


def _uses_another_model(trainer: Trainer, state: State, task: Task) -> bool:
    method = trainer.method
    changes = method.pool or any(not step.trained for step in method.finish)
    return changes or fits_statistics(method, trainer.partition, state, task.shared)


@torch.no_grad()
def _scores(trainer: Trainer, net: Net, x: Tensor) -> Tensor:
    """Return the outputs [K, N, width] of the stack on the CPU."""
    net.eval()

    def scores(tensors: State, rows: Tensor) -> Tensor:
        with precision.autocast_for(trainer.dtype, trainer.device):
            return functional_call(net, tensors, (rows,)).float()

    tensors, parts = net.state_dict(), x.split(ROWS_AT_ONCE, 1)
    inputs = (to_inputs(part.flatten(0, 1), trainer.device).unflatten(0, part.shape[:2]) for part in parts)
    return torch.cat([vmap(scores)(tensors, part) for part in inputs], 1).cpu()
