"""torch's multi-head attention with a low-rank change of its packed projection, which its own code never calls as a layer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTION = "in_proj_weight"  # of queries, keys and values, one above the other


class AdaptedAttention(nn.MultiheadAttention):
    """
    Attention whose queries, keys and values are changed by its child ``adapter``, from inputs [B, L, E] and W x + b [B, L, 3 E].
    A layer becomes one by its ``__class__``, so that its tensors keep their names.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what torch's layer returns. The attention is torch's own; only the projection before it is made here."""
        same = torch.eye(
            self.embed_dim, device=query.device, dtype=query.dtype
        )  # the inputs are projected already
        q, k, v = (part.transpose(0, 1) for part in self._projected(query, key, value))
        output, weights = F.multi_head_attention_forward(
            q,
            k,
            v,
            embed_dim_to_check=self.embed_dim,
            num_heads=self.num_heads,
            in_proj_weight=None,
            in_proj_bias=None,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=self.dropout,
            out_proj_weight=self.out_proj.weight,
            out_proj_bias=self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=True,
            q_proj_weight=same,
            k_proj_weight=same,
            v_proj_weight=same,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return output.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        def of(x: Tensor) -> tuple[Tensor, ...]:
            adapter: Any = self.get_submodule("adapter")
            made: Tensor = F.linear(x, self.in_proj_weight, self.in_proj_bias)
            return adapter(x, made).chunk(3, -1)

        if query is key and key is value:
            return of(query)
        return of(query)[0], of(key)[1], of(value)[2]


def unsuitable(layer: nn.MultiheadAttention) -> str:
    """Return why the layer's projection cannot be changed; "" where it can."""
    if layer.in_proj_weight is None:
        return "its keys or values have another width than its queries"
    if not layer.batch_first:
        return "its first axis is not the batch (batch_first)"
    if layer.bias_k is not None or layer.add_zero_attn:
        return "it adds keys and values of its own"
    return ""
