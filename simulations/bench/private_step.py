"""Compare a private step with a plain step: the same rows, model and optimizer, with and without DP-SGD."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from bars import FAST, HOOKS, PLAIN
from loads import CLASSES
from torch import Tensor, nn

from fedtl.models.libraries import LibraryOptions, torchvision_model
from fedtl.models.net import ModelSpec
from fedtl.models.registry import model_spec, with_private_norms
from fedtl.models.split import split_at_classifier
from fedtl.privacy.dp_sgd import Mechanism, NoisySum
from fedtl.privacy.noise import Noise
from fedtl.privacy.per_sample.clipping import GradientMethod, by_bookkeeping, by_hooks, choose_gradient_method

RESNET = "resnet18 for small images"


@dataclass(frozen=True)
class StepLoad:
    """
    A model, the shape of an input, the rows per step, the steps per turn (about 0.3 s without privacy), and the rows of each unit
    that is protected, such as a patient.
    """

    name: str
    model: str
    shape: tuple[int, ...]
    rows: int
    steps: int
    rows_a_unit: int = 1

    @property
    def units(self) -> Tensor | None:
        return None if self.rows_a_unit == 1 else torch.arange(self.rows) // self.rows_a_unit


STEP_LOADS = {
    load.name: load
    for load in (
        StepLoad("step of the convnet, 28 px, 32 rows", "convnet", (3, 28, 28), 32, 30),
        StepLoad(
            "step of the convnet, 8 patients of 4 rows",
            "convnet",
            (3, 28, 28),
            32,
            30,
            rows_a_unit=4,
        ),
        StepLoad("step of the convnet with GroupNorm, 32 rows", "convnet_gn", (3, 28, 28), 32, 30),
        StepLoad("step of ResNet-18, 32 px, 16 rows", RESNET, (3, 32, 32), 16, 1),
    )
}


class Steps:
    """A contender: steps of SGD with momentum on random rows and labels."""

    def __init__(
        self, load: StepLoad, make: Callable[[nn.Module, Tensor, Tensor], Callable[[], None]], private: bool
    ) -> None:
        plan = _resnet18(load.shape) if load.model == RESNET else model_spec(load.model, load.shape, seed=0)
        net = (
            (with_private_norms(plan) if private else plan)
            .net(len(CLASSES))
            .to(memory_format=torch.channels_last)
        )  # type: ignore[call-overload]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(load.rows, *load.shape, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        y = torch.randint(len(CLASSES), (load.rows,), generator=generator)
        self._step, self._steps = make(net.train(), x, y), load.steps

    def round(self) -> None:
        for _ in range(self._steps):
            self._step()

    def close(self) -> None:
        pass


def _resnet18(shape: tuple[int, ...]) -> ModelSpec:
    """ResNet-18 with the stem for 32 px: a 3 x 3 convolution of stride 1 and no pooling (He et al., 2016, for CIFAR)."""
    module, classifier = torchvision_model("resnet18", shape, LibraryOptions())
    module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return split_at_classifier(module, classifier, shape, 0)


def _optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, foreach=True)


def plain(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimizer, rows = _optimizer(net), torch.arange(len(x))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()

    return step


def private(
    method: GradientMethod, units: Tensor | None = None
) -> Callable[[nn.Module, Tensor, Tensor], Callable[[], None]]:
    """A whole step on given rows: clip, sum, noise from the operating system, optimizer."""

    def make(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
        def losses(model: nn.Module, rows: Tensor) -> Tensor:
            return F.cross_entropy(model(x[rows]), y[rows], reduction="none")

        if (
            method is by_bookkeeping
            and choose_gradient_method(net, torch.arange(4), losses, 1.0, units is not None) is not method
        ):
            raise RuntimeError("book-keeping does not give the gradients of autograd for this model")
        rows = torch.arange(len(x))
        mechanism = Mechanism(net, _optimizer(net), NoisySum(1.0, 1.0, float(len(x))), Noise(), method)
        return lambda: mechanism.step(rows, losses, units)

    return make


def contenders(load: StepLoad) -> dict[str, Steps]:
    return {
        PLAIN: Steps(load, plain, private=False),
        FAST: Steps(load, private(by_bookkeeping, load.units), private=True),
        HOOKS: Steps(load, private(by_hooks, load.units), private=True),
    }
