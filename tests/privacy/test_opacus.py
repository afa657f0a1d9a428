"""What fedtl uses of Opacus, and that it changes nothing in it."""

import subprocess
import sys

import torch
from opacus.optimizers import DPOptimizer

from fedtl.privacy.dp_sgd import Mechanism, NoisySum
from fedtl.privacy.noise import Noise
from fedtl.privacy.per_sample import hooks as engine
from fedtl.privacy.per_sample.clipping import by_hooks
from fedtl.privacy.per_sample.hooks import NoisyOptimizer
from tests.problems import problem, sgd


def test_opacus_is_imported_at_the_first_private_step_and_logging_is_unchanged():
    code = (
        "import logging, sys, torch\n"
        "from torch import nn\n"
        "import fedtl.experiment.run\n"
        "from fedtl.privacy.per_sample import clipping as gradients\n"
        "assert 'opacus' not in sys.modules\n"
        "rows, x = torch.arange(4), torch.randn(4, 3)\n"
        "gradients.choose_gradient_method(nn.Linear(3, 2), rows, lambda net, rows: net(x[rows]).sum(1), 1.0)\n"
        "assert 'opacus' in sys.modules and not logging.root.handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_opacus_registries_are_unchanged():
    """They belong to the process: for other code, Opacus computes Conv2d with its own sampler, also after our steps."""
    code = (
        "import torch\n"
        "from torch import nn\n"
        "from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping as Fast\n"
        "before = dict(GradSampleHooks.GRAD_SAMPLERS), dict(Fast.GRAD_SAMPLERS), dict(Fast.NORM_SAMPLERS)\n"
        "import fedtl.experiment.run\n"
        "from fedtl.privacy.per_sample.hooks import Hooks\n"
        "from fedtl.privacy.per_sample.clipping import by_hooks\n"
        "x = torch.randn(4, 1, 5, 5)\n"
        "by_hooks(nn.Conv2d(1, 2, 3), torch.arange(4), lambda net, rows: net(x[rows]).sum((1, 2, 3)))\n"
        "after = GradSampleHooks.GRAD_SAMPLERS, Fast.GRAD_SAMPLERS, Fast.NORM_SAMPLERS\n"
        "assert before == after\n"
        "assert Hooks.GRAD_SAMPLERS is GradSampleHooks.GRAD_SAMPLERS\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


class Recorded(NoisyOptimizer):
    """Records the order of calls in a step of Opacus' optimizer."""

    def __init__(self, *given):
        self.seen = []
        super().__init__(*given)

    def accumulate(self):
        self.seen.append("accumulate")
        super().accumulate()

    def add_noise(self):
        self.seen.append("noise")
        super().add_noise()

    def scale_grad(self):
        self.seen.append("scale")
        super().scale_grad()


def test_opacus_optimizer_takes_the_step(monkeypatch):
    """Parts are accumulated, followed by one noise, one division and what runs before the optimizer."""
    monkeypatch.setattr(engine, "NoisyOptimizer", Recorded)
    net, losses = problem("mlp")
    mechanism = Mechanism(net, sgd(net), NoisySum(1.0, 1.0, 6.0), Noise(), by_hooks, microbatch=2)
    optimizer = mechanism._optimizer
    assert isinstance(optimizer, DPOptimizer)
    for rows in (6, 0):
        mechanism.step(torch.arange(rows), losses, before_optimizer=lambda: optimizer.seen.append("beside"))
    assert optimizer.seen == [
        *["accumulate"] * 3,
        "noise",
        "scale",
        "beside",
        "accumulate",
        "noise",
        "scale",
        "beside",
    ]
