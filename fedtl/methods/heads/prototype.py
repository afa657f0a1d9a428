"""Nearest prototype."""

from torch import Tensor

from fedtl.methods.base import LabelledFeatures
from fedtl.methods.heads.base import class_means, square_distances


def prototype(support: LabelledFeatures, width: int, queries: Tensor) -> Tensor:
    """Snell et al., 2017: the score of class c is -||q - m_c||^2, with m_c the mean features of its support rows."""
    return -square_distances(queries, class_means(support, width))
