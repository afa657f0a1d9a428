"""Mean embeddings of the rows of all silos: the distribution of their features as one bounded vector."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtl.methods.group_means import GroupMeans
from fedtl.methods.losses import Forward
from fedtl.methods.random_features import FEATURES, RandomFeatures, layer_output, paths


@dataclass(frozen=True)
class Embedding:
    """
    The random features of a row's outputs at some ``layers``: of each layer, side by side and divided by sqrt(layers), so that
    kernels are averaged; or with ``joint`` of all outputs as one vector, so that Gaussian kernels are multiplied. Length 1.
    """

    features: RandomFeatures
    layers: tuple[str, ...] = (FEATURES,)
    joint: bool = False

    def of(self, out: Forward) -> Tensor:
        """Return the vectors [B, numbers]."""
        outputs = [layer_output(out, layer) for layer in self.layers]
        if self.joint:
            return self.features.of(torch.cat(outputs, 1))
        return torch.cat([self.features.of(one) for one in outputs], 1) / math.sqrt(len(outputs))

    @property
    def numbers(self) -> int:
        """The length of a vector in numbers."""
        return 2 * self.features.frequencies * (1 if self.joint else len(self.layers))


@dataclass(frozen=True)
class MeanEmbedding(GroupMeans):
    """Gretton et al., 2012; released with noise: DP-MERF (Harder et al., 2021). The means of an embedding over groups of rows."""

    name: str
    embedding: Embedding
    by_label: bool = False

    @property
    def needs_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        return paths(self.embedding.layers)

    def vectors(self, out: Forward) -> Tensor:
        return self.embedding.of(out)

    def numbers(self, features: int, width: int) -> int:
        return self.embedding.numbers
