"""Do a model's answers divide rows as its features do? Without labels."""

import numpy as np
import torch
from torch import Tensor

ROWS = 10_000  # the most that are clustered: evenly spaced ones of more
STARTS = 10  # of k-means


def cluster_agreement(features: Tensor, answers: Tensor, classes: int) -> float:
    """
    Return the ClassAMI (Musgrave, Belongie and Lim, 2022) of ``answers`` [N], class numbers, and ``features`` [N, D]: the adjusted
    mutual information of the answers and k-means clusters of the features, one cluster for each of ``classes``.

    1: the answers divide the rows as the clusters do; 0: no more than chance would, or the same answer for all rows. NaN with
    fewer rows than classes, and where a feature is not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score

    if len(answers) < classes or not bool(torch.isfinite(features).all()):
        return float("nan")
    kept = np.unique(np.linspace(0, len(answers) - 1, min(len(answers), ROWS)).astype(int))
    rows, given = features.flatten(1)[kept].double().numpy(), answers[kept].numpy()
    if len(np.unique(given)) == 1:  # scikit-learn gives 1 where both are one cluster
        return 0.0
    clusters = KMeans(min(classes, len(np.unique(rows, axis=0))), n_init=STARTS, random_state=0).fit_predict(
        rows
    )
    return float(adjusted_mutual_info_score(given, clusters))
