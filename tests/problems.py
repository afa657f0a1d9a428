"""Nets and losses whose gradients example by example are known, and nothing that is tested here."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from fedtl.models.dp_norm import convert_norms
from fedtl.models.registry import model_spec


class Silent:
    """Noise that is none, to see what is beneath it; remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def add(self, total, std):
        self.asked.append((tuple(total.shape), std))
        return total


def with_training(guarantee, **changes):
    """The guarantee with these values of its training."""
    return replace(guarantee, training=replace(guarantee.training, **changes))


def builtin(name, shape, **settings):
    net = model_spec(name, shape, 0, settings=settings).net(3)
    net.body = convert_norms(net.body)
    generator = torch.Generator().manual_seed(4)
    for label, buffer in net.named_buffers():  # statistics that are not 0 and 1
        values = torch.rand(buffer.shape, generator=generator)
        buffer.copy_(values + 0.5 if label.endswith("var") else values - 0.5)
    return net.train()


class Odd(nn.Module):
    """Groups, strides, dilation, padding by mode and by name, a sequence through Linear and LayerNorm, GroupNorm."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2)
        self.two = nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=6, bias=False)
        self.group = nn.GroupNorm(3, 6)
        self.three = nn.Conv2d(6, 4, (2, 3), padding=(0, 1))
        self.four = nn.Conv2d(4, 40, 1)
        self.mix, self.layer = nn.Linear(40, 30), nn.LayerNorm(30)
        self.last = nn.Linear(30, 3)

    def forward(self, x):
        x = self.three(self.group(self.two(self.one(x).relu()))).relu()
        x = self.layer(self.mix(self.four(x).flatten(2).transpose(1, 2))).relu()
        return self.last(x.mean(1))


def odd():
    torch.manual_seed(0)
    return Odd()


class Codes(nn.Module):
    """Codes from 0 to 5 or so, often the same in one row, of which 0 is padding, and their places."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.word, self.place = nn.Embedding(20, 5, padding_idx=0), nn.Embedding(9, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        places = torch.arange(9).expand(x.shape)
        return self.last((self.word(x.mul(2).abs().long()) + self.place(places)).tanh().mean(1))


NETS = {
    "codes": (Codes, (9,)),
    "convnet": (lambda: builtin("convnet", (2, 8, 8)), (2, 8, 8)),
    "resnet20": (lambda: builtin("resnet20", (2, 16, 16)), (2, 16, 16)),
    "mlp": (lambda: builtin("mlp", (7,)), (7,)),
    "odd": (odd, (2, 9, 9)),
}


def problem(name, size=6, dtype=torch.float64):
    """A net, its losses by row, and the rows; some rows' gradients are shorter than the clip of 1 and some longer."""
    build, shape = NETS[name]
    net = build().to(dtype)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(size, *shape, generator=generator, dtype=dtype)
    y = torch.randint(3, (size,), generator=generator)
    scale = torch.logspace(-3, 0, size, dtype=dtype)
    return net, lambda model, rows: scale[rows] * F.cross_entropy(model(x[rows]), y[rows], reduction="none")


def one_at_a_time(net, losses, size, units=None):
    """The gradients [units, parameters], flat, by autograd alone."""
    moving = [weight for weight in net.parameters() if weight.requires_grad]
    each = []
    for row in range(size):
        found = torch.autograd.grad(
            losses(net, torch.tensor([row]))[0], moving, materialize_grads=True, allow_unused=True
        )
        each.append(torch.cat([part.flatten() for part in found]))
    each = torch.stack(each)
    if units is not None:
        each = torch.stack([each[units == unit].sum(0) for unit in units.unique()])
    return each


def expected_sum(each, clip):
    return sum(g * min(1.0, clip / (float(g.norm()) + 1e-6)) for g in each)


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


def sgd(net, **settings):
    return torch.optim.SGD(
        [weight for weight in net.parameters() if weight.requires_grad], **({"lr": 1.0} | settings)
    )


def vector(net):
    return flat(weight.detach().clone() for weight in net.parameters())


def traces(net):
    """Whatever is attached to modules and parameters."""
    modules = {path: sorted(vars(module)) for path, module in net.named_modules()}
    hooks = [vars(module)[name] for module in net.modules() for name in vars(module) if "hooks" in name]
    weights = {name: sorted(vars(weight)) for name, weight in net.named_parameters()}
    grads = [weight.grad is None and weight.requires_grad for weight in net.parameters()]
    return (
        modules,
        [len(found) for found in hooks if found is not None and not isinstance(found, bool)],
        weights,
        grads,
    )
