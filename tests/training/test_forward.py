"""Which axis of a layer's output holds the features."""

import torch
from torch import nn

from fedtl.models.net import Net
from fedtl.training.forward import outputs_of


class Norm2d(nn.LayerNorm):
    """LayerNorm over the channels of images, as timm has it."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Patches(nn.Module):
    """A convolution whose positions become tokens, as ViT begins."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 5, 2, 2)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def second_axis(layer, *shape):
    """The sizes of the second axis and of the output, as terms and measures see them."""
    net = Net(nn.Sequential(layer), nn.Flatten(), nn.ModuleDict())
    x = torch.randn(2, *shape)
    with outputs_of(net, ["body.0"]) as outputs:
        net(x)
    plain, seen = layer(x), outputs["body.0"]
    assert torch.equal(seen, plain) or torch.equal(seen, plain.movedim(-1, 1))
    return seen.shape[1]


def test_features_are_the_second_axis_of_maps_series_and_tokens():
    assert second_axis(nn.Conv2d(3, 5, 1), 3, 4, 6) == 5
    assert second_axis(Norm2d(3), 3, 4, 6) == 3
    assert second_axis(nn.MaxPool2d(2), 3, 4, 6) == 3
    assert second_axis(nn.Conv1d(3, 5, 1), 3, 6) == 5
    assert second_axis(nn.BatchNorm1d(3), 3, 6) == 3
    assert second_axis(nn.GroupNorm(1, 3), 3, 6) == 3
    assert second_axis(Patches(), 3, 4, 6) == 5  # tokens [N, 6, 5]
    assert second_axis(nn.LayerNorm(7), 6, 7) == 7
    assert second_axis(nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 9)), 6, 7) == 9
    assert second_axis(nn.LayerNorm(7), 3, 4, 7) == 7  # as Swin's images [N, H, W, C]
