"""
The parts of Opacus that train here (Yousefpour et al., 2021): its hooks for per-example gradients, with two samplers of
our own, and its optimizer for clipped sums, with our own noise.

Our samplers stay with our hooks: Opacus' registry, which other code of the process may use, is not changed. To be
imported late, inside ``opacus_for``, because it takes seconds.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleHooks  # type: ignore[import-untyped]
from opacus.grad_sample.conv import compute_conv_grad_sample  # type: ignore[import-untyped]
from opacus.grad_sample.embedding import compute_embedding_grad_sample  # type: ignore[import-untyped]
from opacus.grad_sample.functorch import prepare_layer  # type: ignore[import-untyped]
from opacus.optimizers import DPOptimizerFastGradientClipping  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.optim import Optimizer

from fedtl.models.dp_norm import ChannelAffine
from fedtl.privacy.noise import Noise

Samples = dict[nn.Parameter, Tensor]


class NoisyOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """
    Takes clipped sums over examples as ``.grad``. A step adds noise, divides by the expected batch, calls the step hook
    and runs ``optimizer``. After ``signal_skip_step`` a step only accumulates, so that a batch in parts gets one noise.

    Opacus would draw from torch's generator, for each parameter, in floating point. Here ``noise`` is drawn once, over
    all ``weights`` in order.
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
        """Add the gradients to the sums in place; Opacus would copy each sum."""
        for weight in self._weights:
            so_far = vars(weight).get("summed_grad")
            weight.summed_grad = weight.grad if so_far is None else so_far.add_(weight.grad)  # type: ignore[attr-defined]
            weight.grad = None

    def add_noise(self) -> None:
        total = torch.cat([weight.summed_grad.flatten() for weight in self._weights])  # type: ignore[attr-defined]
        released = self._noise.add(total, self.noise_multiplier * self.max_grad_norm)
        noisy_sums = released.split([weight.numel() for weight in self._weights])
        for weight, part in zip(self._weights, noisy_sums, strict=True):
            weight.grad = torch.empty_like(weight).copy_(part.view_as(weight))  # in the weight's layout

    def forget(self) -> None:
        """Clear what a batch left, also an interrupted one: Opacus would add the next batch to it, under one noise."""
        self._step_skip_queue.clear()
        self._is_last_step_skipped = False
        for weight in self._weights:
            weight.grad = None
            vars(weight).pop("summed_grad", None)


class Hooks(GradSampleHooks):  # type: ignore[misc]
    """
    Sets ``.grad_sample`` to the per-example gradients of the sum of the examples' losses, until ``close``.

    Opacus hooks modules, which turns their outputs into views that must not be changed in place, but blocks of the
    model libraries do that (``out += identity``). Here the outputs themselves are hooked.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self.GRAD_SAMPLERS = GradSampleHooks.GRAD_SAMPLERS | OWN_SAMPLERS  # in this instance only
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
            if output._is_view():  # a hook on a view is lost when the view is changed in place
                output = output.clone()
            output.register_hook(backward)
        return output

    def close(self) -> None:
        """Remove all that Opacus stores in a net, also after a failure: its own cleanup keeps activations."""
        for handle in vars(self).get("_handles", ()):
            handle.remove()
        for module in self._net.modules():
            for name in ("activations", "max_batch_len", "ft_compute_sample_grad"):
                module.__dict__.pop(name, None)
        for weight in self._net.parameters():
            weight.grad = None
            for name in ("grad_sample", "_current_grad_sample", "_forward_counter"):
                weight.__dict__.pop(name, None)


def _channel_affine(layer: ChannelAffine, activations: list[Tensor], backprops: Tensor) -> Samples:
    x = activations[0].to(backprops.dtype)
    samples = {layer.weight: x * backprops, layer.bias: backprops}
    return {
        weight: values.flatten(2).sum(2) if values.dim() > 2 else values
        for weight, values in samples.items()
        if weight.requires_grad
    }


def _conv2d(layer: nn.Conv2d, activations: list[Tensor], backprops: Tensor) -> Samples:
    """
    Replaces Opacus 1.6's sampler, which reads the memory of a channels-last input as if it were contiguous (norms were 30
    to 90 % wrong), and treats every padding as zeros.
    """
    x = activations[0].contiguous()
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode)
        layer = copy.copy(layer)  # shares the parameters
        layer.padding, layer.padding_mode = (0, 0), "zeros"
    samples: Samples = compute_conv_grad_sample(layer, [x], backprops.contiguous())
    return samples


def _embedding(layer: nn.Embedding, activations: list[Tensor], backprops: Tensor) -> Samples:
    """Corrects Opacus 1.6's sampler, which gives the code of padding a gradient, where autograd gives it none."""
    samples: Samples = compute_embedding_grad_sample(layer, activations, backprops)
    for values in samples.values():  # of the one weight, if it is trained
        if layer.padding_idx is not None:
            values[:, layer.padding_idx] = 0
    return samples


def _layer_norm(layer: nn.LayerNorm, activations: list[Tensor], backprops: Tensor) -> Samples:
    """Opacus 1.6's sampler for a layer without shift, too, which it fails on."""
    samples: Samples = {}
    sides = tuple(range(1, backprops.dim() - len(layer.normalized_shape)))
    if layer.weight.requires_grad:
        scaled = F.layer_norm(activations[0], layer.normalized_shape, eps=layer.eps) * backprops
        samples[layer.weight] = scaled.sum(sides) if sides else scaled
    if layer.bias is not None and layer.bias.requires_grad:
        samples[layer.bias] = backprops.sum(sides) if sides else backprops
    return samples


OWN_SAMPLERS = {
    ChannelAffine: _channel_affine,
    nn.Conv2d: _conv2d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
}
