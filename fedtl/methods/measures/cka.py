"""How similar are two representations of the same rows?"""

import torch
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> float:
    """
    Return the linear centred kernel alignment (Kornblith et al., 2019) of two representations of the same rows, ``x``
    [N, D] and ``y`` [N, E], from 0 to 1:

        ||Y' X||_F^2 / (||X' X||_F ||Y' Y||_F), columns centred

    It does not change with rotations and with one scale for all columns. NaN where a representation is the same for all
    rows. Raises ValueError for different numbers of rows.
    """
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows and y {len(y)}: both must be of the same rows")
    first, second = _gram(x), _gram(y)
    norms = first.norm() * second.norm()
    return float((first * second).sum() / norms) if norms > 0 else float("nan")


def _gram(x: Tensor) -> Tensor:
    """Return the products of centred rows [N, N]: ||Y' X||_F^2 is the sum of the products of two such tables."""
    x = x.flatten(1).double()
    centred = x - x.mean(0)
    products: Tensor = centred @ centred.T
    noise = torch.finfo(torch.float64).eps * float(x.square().sum())  # of the rounding of the mean
    return products if float(products.diagonal().sum()) > noise else torch.zeros_like(products)
