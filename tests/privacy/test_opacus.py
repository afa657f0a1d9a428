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


def test_opacus_is_imported_at_the_first_private_step_and_nothing_in_it_is_changed():
    """
    Logging is as it was. Opacus' registries belong to the process: for other code, it computes Conv2d with its own sampler, also after
    our steps. Another import of it, with nothing of fedtl, says what they were.
    """
    code = (
        "import importlib, logging, sys, torch\n"
        "from torch import nn\n"
        "import fedtl.experiment.run\n"
        "from fedtl.privacy.per_sample import clipping as gradients\n"
        "assert 'opacus' not in sys.modules\n"
        "rows, x = torch.arange(4), torch.randn(4, 1, 5, 5)\n"
        "net, losses = nn.Conv2d(1, 2, 3), lambda net, rows: net(x[rows]).sum((1, 2, 3))\n"
        "gradients.choose_gradient_method(net, rows, losses, 1.0)\n"
        "assert 'opacus' in sys.modules and not logging.root.handlers\n"
        "gradients.by_hooks(net, rows, losses)\n"
        "from fedtl.privacy.per_sample.hooks import Hooks\n"
        "def registries():\n"
        "    from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping as Fast\n"
        "    tables = GradSampleHooks.GRAD_SAMPLERS, Fast.GRAD_SAMPLERS, Fast.NORM_SAMPLERS\n"
        "    name = lambda one: f'{one.__module__}.{one.__qualname__}'\n"
        "    return tables, [{name(layer): name(how) for layer, how in table.items()} for table in tables]\n"
        "tables, used = registries()\n"
        "assert Hooks.GRAD_SAMPLERS is tables[0]\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] == 'opacus']: del sys.modules[name]\n"
        "assert used == registries()[1] and used[0]\n"
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
