"""Batch normalisation over some rows of a batch, as a stack of silos with batches of different sizes needs it."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class MaskedNorm(_BatchNorm):
    """
    nn.BatchNorm over the rows i of a batch with m_i = 1, for a mask m in {0, 1}^B. With S positions in a row and
    n = S sum_i m_i,

        mean = sum_i m_i x_i / n,  variance = sum_i m_i (x_i - mean)^2 / n,

    with sums over rows and positions. The rows are scaled by mean and variance, and the running statistics move by
    ``momentum`` towards mean and variance n / (n - 1). The values of rows with m_i = 0 have no effect.

    The mask is passed with the call (torch.func.functional_call), as the weights are; None keeps every row.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    mask: Tensor | None

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.register_buffer("mask", None, persistent=False)

    def _check_input_dim(self, input: Tensor) -> None:
        """Do nothing: the trainer's own net, which validates first, has the norm that this one replaces, and it checks."""

    def forward(self, input: Tensor) -> Tensor:
        # Under autocast the input has fewer bits than the weights, which torch's own norm refuses for several silos at once.
        return self._normalised(input.to(self.weight.dtype)).to(input.dtype)

    def _normalised(self, input: Tensor) -> Tensor:
        if not self.training:
            return self._with_running_statistics(input)
        if self.mask is None:
            return super().forward(input)
        mask, axes = expand_mask(self.mask, input), [axis for axis in range(input.dim()) if axis != 1]
        n = self.mask.sum() * input[0, 0].numel()
        x = torch.where(mask, input, 0)
        mean = x.sum(axes, keepdim=True) / n
        centred = torch.where(mask, x - mean, 0)
        variance = centred.pow(2).sum(axes, keepdim=True) / n
        with torch.no_grad():
            self.running_mean.mul_(1 - self.momentum).add_(mean.flatten() * self.momentum)
            self.running_var.mul_(1 - self.momentum).add_((variance * n / (n - 1)).flatten() * self.momentum)
            self.num_batches_tracked.add_(1)
        channels = [-1] + [1] * (input.dim() - 2)
        scale = (variance + self.eps).rsqrt() * self.weight.view(channels)
        return torch.addcmul(self.bias.view(channels), centred, scale)

    def _with_running_statistics(self, input: Tensor) -> Tensor:
        channels = [-1] + [1] * (input.dim() - 2)
        scale = (self.running_var + self.eps).rsqrt() * self.weight
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift.view(channels), input, scale.view(channels))


def expand_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Return the mask with the number of dimensions of ``x``, so that it broadcasts."""
    return mask.view(*mask.shape, *[1] * (x.dim() - mask.dim()))
