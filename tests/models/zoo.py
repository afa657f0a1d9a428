"""Small models that a user may bring, each with one peculiarity. Inputs: rows of 4 numbers; the classifier is ``fc``."""

import torch
import torch.nn.functional as F
from torch import nn

COLUMNS = 4


class Plain(nn.Module):
    """A layer, something in the middle, and the classifier."""

    def __init__(self, middle=None, head=None):
        super().__init__()
        self.first = nn.Linear(COLUMNS, 6)
        self.middle = middle or nn.Identity()
        self.fc = head or nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.middle(self.first(x).relu()))


class Codes(nn.Module):
    """Takes whole numbers from 0 to 7."""

    def __init__(self):
        super().__init__()
        self.emb, self.fc = nn.Embedding(8, 4), nn.Linear(4 * COLUMNS, 3)

    def forward(self, x):
        return self.fc(self.emb(x.long()).flatten(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(COLUMNS, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.c.weight = self.b.weight
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.c(self.b(self.a(x).relu()).relu()))


class TiedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(COLUMNS, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.fc.weight = self.b.weight

    def forward(self, x):
        return self.fc(self.b(self.a(x)).relu())


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.rnn, self.fc = kind(1, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.rnn(x[..., None])[0][:, -1])


class BodyChild(nn.Module):
    """A child called ``body``, as the net of fedtl has one."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(COLUMNS, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.body(x).relu())


class TwoInTraining(Plain):
    def forward(self, x):
        scores = super().forward(x)
        return (scores, scores * 2) if self.training else scores


class FlatConv(nn.Module):
    """The classifier is a 1 x 1 convolution before a flattening, as in timm's BiT."""

    def __init__(self):
        super().__init__()
        self.first, self.fc = nn.Linear(COLUMNS, 6), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return self.fc(self.first(x).relu()[..., None, None]).flatten(1)


class Normed(nn.Linear):
    """Not a plain Linear layer, though a subclass."""

    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight))


class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return x + self.seen


class NoGradient(nn.Module):
    """Its backward pass fails: an output that it needs is changed in place."""

    def forward(self, x):
        y = x.exp()
        return y.mul_(2) * y.exp_()


class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class Frozen(Plain):
    def __init__(self):
        super().__init__(middle=nn.Linear(6, 6))
        self.first.requires_grad_(False)


class OverBatch(nn.Module):
    """Takes the batch for time, as nn.RNN does without batch_first: a row sees the rows before it."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(6, 6)

    def forward(self, x):
        return self.rnn(x[:, None])[0][:, 0]


class Running(nn.Module):
    """Keeps a mean of what it was trained on, which is no buffer that is saved."""

    def __init__(self, register=False):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6), persistent=False) if register else None
        self.mean = torch.zeros(6)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.ones(6, dtype=torch.complex64))

    def forward(self, x):
        return (x * self.phase).abs()


class ChangesInputs(Plain):
    def forward(self, x):
        return super().forward(x.clamp_(-1, 1))


class Picture(nn.Module):
    """Takes a row for a picture of 2 x 2 pixels. ``end``: whether pixels are averaged before the classifier, before it as [N, C, 1, 1], or after it."""

    def __init__(self, middle, head, end):
        super().__init__()
        self.first, self.middle, self.fc, self.end = nn.Conv2d(1, 6, 1), middle, head, end

    def forward(self, x):
        maps = self.middle(self.first(x.unflatten(1, (1, 2, 2))).relu())
        if self.end == "after":
            return self.fc(maps).mean((2, 3))
        means = maps.mean((2, 3), keepdim=True)
        return self.fc(means).flatten(1) if self.end == "kept" else self.fc(means.flatten(1))
