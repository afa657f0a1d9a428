"""How far do features tell classes apart, measured by their covariances?"""

import torch
from torch import Tensor


def h_score(features: Tensor, y: Tensor) -> float:
    """
    Return the H-score (Bao et al., 2019) of ``features`` [N, D] for class numbers ``y`` [N]:

        tr(cov(f)^-1 cov(E[f | y]))

    It lies between 0 and the smaller of D and the number of classes less one, and is the sum of the squared canonical
    correlations of features and classes. Directions in which the features do not vary are left out (pseudo-inverse).
    NaN without two classes, and with at most D + 1 rows, which any labels would seem to fit; it is too high where rows are few.
    """
    classes, of_class, counts = y.unique(return_inverse=True, return_counts=True)
    if len(classes) < 2 or len(y) <= features.flatten(1).shape[1] + 1:
        return float("nan")
    centred = features.flatten(1).double()
    centred = centred - centred.mean(0)
    sums = torch.zeros(len(classes), centred.shape[1], dtype=torch.float64).index_add_(0, of_class, centred)
    means = sums / counts.double().unsqueeze(1)
    covariance = centred.T @ centred / len(y)
    between = (means * counts.double().unsqueeze(1)).T @ means / len(y)
    return float(torch.trace(torch.linalg.pinv(covariance, hermitian=True, rtol=1e-10) @ between))
