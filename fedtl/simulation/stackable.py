"""
Whether several silos can be trained as one stack: only where no layer, loss or optimiser step can mix their tensors.
"""

from torch import nn, optim

from fedtl.methods.base import Phase
from fedtl.methods.losses import TaskLoss
from fedtl.methods.optimizers import OPTIMIZERS
from fedtl.models.net import Net
from fedtl.training.trainer import Trainer

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (
    *NORMS,
    *(nn.Linear, nn.Conv2d, nn.ReLU, nn.Flatten, nn.Identity),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
ELEMENTWISE = (optim.SGD, optim.Adam, optim.AdamW, optim.Adagrad, optim.Adadelta, optim.RMSprop, optim.NAdam)


def why_not_stackable(trainer: Trainer) -> str | None:
    """The reason why this trainer's silos cannot be trained in one stack, in one line; None if they can."""
    reason = _unsuitable_setting(trainer) or _unsuitable_module(trainer.net(1))
    if reason is None:
        return None
    return f"engine.stack > 1: {reason} cannot be trained for several silos at once; set engine.stack = 1"


def _unsuitable_setting(trainer: Trainer) -> str | None:
    """An objective that needs more than rows and labels, or an optimiser whose step mixes the tensors of silos."""
    method = trainer.method
    if method.wire.compresses:
        return f"wire.dtype = {method.wire.dtype!r}: compressed updates"
    if trainer.others:
        return "silos whose models differ"
    if method.objective != (TaskLoss(),):
        return f"the objective {' + '.join(type(term).__name__ for term in method.objective)}"
    if method.slots or method.summaries or any(p != Phase(p.train, p.epochs) for p in method.phases):
        return "a method that trains or keeps other sets of tensors than the model"
    if trainer.training.clip is not None:
        return "a gradient that is clipped over all tensors"
    if trainer.training.augment:
        return "images that are changed at random"
    if OPTIMIZERS[trainer.training.optimizer] not in ELEMENTWISE:
        return f"train.optimizer = {trainer.training.optimizer!r}, whose step is not elementwise,"
    return None


def _unsuitable_module(net: Net) -> str | None:
    """A layer that mixes rows, or is not known not to."""
    for path, module in net.named_modules():
        name = f"{path} ({type(module).__name__})"
        if type(module) in NORMS:
            assert isinstance(module, NORMS)
            if not (module.affine and module.momentum is not None and module.track_running_stats):
                return f"{name} without scale, momentum or running statistics"
        elif type(module) not in LAYERS and not _only_contains(module):
            return name
    if len(list(net.parameters())) < len(list(net.named_parameters(remove_duplicate=False))):
        return "a weight that two layers share"
    return None


def _only_contains(module: nn.Module) -> bool:
    """Whether a module has no tensors of its own and only calls the modules in it."""
    contains = next(module.children(), None) is not None or isinstance(module, nn.Sequential | nn.ModuleDict)
    return contains and not module._parameters and not module._buffers
