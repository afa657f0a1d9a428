""""""

from torch import nn

from fedtl.privacy.per_sample.clipping import by_bookkeeping, by_hooks

WAYS = {"hooks": by_hooks, "book": by_bookkeeping}


class Residual(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        out = self.layer(x)
        out += x
        return out
