"""
What of Opacus trains here (Yousefpour et al., 2021): its hooks for per-example gradients, with two samplers of ours, and
its optimizer for sums that are clipped, with our noise.

To be imported late, inside ``opacus_for``: it takes seconds.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleHooks, register_grad_sampler  # type: ignore[import-untyped]
from opacus.grad_sample.conv import compute_conv_grad_sample  # type: ignore[import-untyped]
from opacus.grad_sample.functorch import prepare_layer  # type: ignore[import-untyped]
from opacus.optimizers import DPOptimizerFastGradientClipping  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl.models.dp_norm import ChannelAffine
from fedtl.privacy.noise import Noise

Samples = dict[nn.Parameter, Tensor]


class NoisyOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """
    Takes clipped sums over examples as ``.grad``; a step adds noise, divides by the expected batch, calls the step
    hook and lets ``optimizer`` move. After ``signal_skip_step`` a step adds up alone: a batch in parts, one noise.

    Opacus would draw from torch's generator, for each parameter, in floating point. Here it is one draw over all
    ``weights``, one after the other, of ``noise``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        weights: Sequence[nn.Parameter],
        clip: float,
        noise_multiplier: float,
        expected_batch: float,
        noise: Noise,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip,
            expected_batch_size=expected_batch,
        )
        self._weights, self._noise = weights, noise
        self.forget()

    def accumulate(self) -> None:
        """Opacus would copy each sum."""
        for weight in self._weights:
            so_far = vars(weight).get("summed_grad")
            weight.summed_grad = weight.grad if so_far is None else so_far.add_(weight.grad)  # type: ignore[attr-defined]
            weight.grad = None

    def add_noise(self) -> None:
        total = torch.cat([weight.summed_grad.flatten() for weight in self._weights])  # type: ignore[attr-defined]
        released = self._noise.add(total, self.noise_multiplier * self.max_grad_norm)
        each = released.split([weight.numel() for weight in self._weights])
        for weight, part in zip(self._weights, each, strict=True):
            weight.grad = torch.empty_like(weight).copy_(part.view_as(weight))  # in the weight's layout

    def forget(self) -> None:
        """What a batch left, also one that broke off: Opacus would add the next one to it, under one noise."""
        self._step_skip_queue.clear()
        self._is_last_step_skipped = False
        for weight in self._weights:
            weight.grad = None
            vars(weight).pop("summed_grad", None)


class Hooks(GradSampleHooks):  # type: ignore[misc]
    """
    Per-example gradients as ``.grad_sample``, of the sum of the examples' losses, until ``close``.

    Opacus hooks modules, whose outputs then are views that nobody may change in place, as the libraries' blocks do
    with ``out += identity``. Here the outputs themselves are hooked.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        try:
            super().__init__(net, loss_reduction="sum", strict=True)
        except BaseException:
            self.close()
            raise

    def add_hooks(self, **_: Any) -> None:
        self._handles = []
        for module in self.iterate_submodules(self._net):
            if type(module) not in self.GRAD_SAMPLERS:
                prepare_layer(module, batch_first=True)
            self._handles.append(module.register_forward_hook(self._forward))
        self.enable_hooks()

    def _forward(self, module: nn.Module, given: tuple[Tensor, ...], output: Any) -> Any:
        self.capture_activations_hook(module, given, output)
        if isinstance(output, tuple):
            return (self._hooked(module, output[0]), *output[1:])
        return self._hooked(module, output)

    def _hooked(self, module: nn.Module, output: Tensor) -> Tensor:
        def backward(g: Tensor) -> None:
            self.capture_backprops_hook(module, None, (g,), loss_reduction="sum", batch_first=True)

        if output.requires_grad:
            if output._is_view():  # a hook on a view is lost when it is changed in place
                output = output.clone()
            output.register_hook(backward)
        return output

    def close(self) -> None:
        """All that Opacus leaves in a net, also where it gave up half-way: its own cleanup keeps activations."""
        for handle in vars(self).get("_handles", ()):
            handle.remove()
        for module in self._net.modules():
            for name in ("activations", "max_batch_len", "ft_compute_sample_grad"):
                module.__dict__.pop(name, None)
        for weight in self._net.parameters():
            weight.grad = None
            for name in ("grad_sample", "_current_grad_sample", "_forward_counter"):
                weight.__dict__.pop(name, None)


@register_grad_sampler(ChannelAffine)  # type: ignore[untyped-decorator]
def _affine(layer: ChannelAffine, activations: list[Tensor], backprops: Tensor) -> Samples:
    x = activations[0].to(backprops.dtype)
    samples = {layer.weight: x * backprops, layer.bias: backprops}
    return {
        weight: values.flatten(2).sum(2) if values.dim() > 2 else values
        for weight, values in samples.items()
        if weight.requires_grad
    }


@register_grad_sampler(nn.Conv2d)  # type: ignore[untyped-decorator]
def _conv2d(layer: nn.Conv2d, activations: list[Tensor], backprops: Tensor) -> Samples:
    """
    Opacus 1.6 reads the memory of a channels-last input as if it were contiguous (norms were 30 to 90 % off), and takes
    every padding for zeros.
    """
    x = activations[0].contiguous()
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode)
        layer = copy.copy(layer)  # of the same parameters
        layer.padding, layer.padding_mode = (0, 0), "zeros"
    samples: Samples = compute_conv_grad_sample(layer, [x], backprops.contiguous())
    return samples
