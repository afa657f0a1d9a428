"""Maximum mean discrepancy between silos: features are compared with a mean embedding that was received."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import MinLen
from torch import Tensor

from fedtl.methods.group_means import DOMAINS, class_groups, domain_groups, group_means, predicted_classes
from fedtl.methods.losses import Forward, PerBatch
from fedtl.methods.mean_embedding import Embedding, MeanEmbedding
from fedtl.methods.random_features import FEATURES, SCORES, RandomFeatureSettings, paths

Layers = Annotated[tuple[str, ...], MinLen(1)]


@dataclass(frozen=True)
class SiloMeanDiscrepancy(RandomFeatureSettings, PerBatch):
    """
    Ghifary et al., 2014 (DaNN); Tzeng et al., 2014 (DDC); Long et al., 2015 (DAN): features have the same distribution in silos
    with and without labels, measured by kernels against mean embeddings that cross.

    ``layers``: "features", "scores" or paths in the net; DaNN and DDC compare one layer by one of the ``widths``, DAN several by
    several. With m the mean embedding of those rows of a batch that are of one group, and r the received mean of its reference,
    the loss is weight * the sum over groups of their share of the batch times ||m||^2 - 2 m . r + ||r||^2, with ||m||^2 free of
    its bias: (||m||^2 - sum a^2) / (1 - sum a^2) for weights a of the rows, which sum to 1.

    ``reference``: "other": rows without labels are compared with the labelled rows of all silos, and labelled rows with those
    without labels, as the MMD between the two does; "labelled": all rows are compared with the labelled rows of all silos, which
    makes silos with labels alike too. ``by_label``: the groups are classes, and a row without a label belongs to each by its
    predicted probability (Zhu et al., 2021). ``partial`` (after PADA: Cao et al., 2018), where not all silos have the same classes:
    rows without labels are one group, and r is the mean embedding of the labelled rows of each class times the mean probability of
    the class that the batch's rows without labels predict; labelled rows are not compared. Where no silo has rows of the reference,
    and in the first round, the loss is 0.
    """

    layers: Layers = (FEATURES,)
    reference: Literal["other", "labelled"] = "other"
    by_label: bool = False
    partial: bool = False
    joint = False
    summary_name = "embedding"
    needs_target = True
    source_free = True

    @property
    def needs_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        return paths(self.layers)

    @property
    def needs_classes(self) -> bool:  # type: ignore[override]
        return self.by_label or self.partial or SCORES in self.layers

    @property
    def embedding(self) -> Embedding:
        return Embedding(self.random_features, self.layers, self.joint)

    def summaries(self) -> tuple[MeanEmbedding]:
        return (MeanEmbedding(self.summary_name, self.embedding, self.by_label or self.partial),)

    def loss(self, out: Forward) -> Tensor:
        means, share = group_means(out.summary(self.summary_name))
        if self.partial:
            groups, means, share = _as_predicted(out, means, share)
        elif self.by_label:
            groups = _memberships(out)
        else:
            groups = domain_groups(out.batch)
            chosen = [1, 0] if self.reference == "other" else [0] * DOMAINS
            means, share = means[chosen], share[chosen]
        return self.weight * discrepancy(self.embedding.of(out), groups, means, share > 0)


def _memberships(out: Forward) -> Tensor:
    """Return how much each row belongs to each class [B, classes]: its label, or else its predicted probabilities, constant."""
    known = out.batch.labelled[:, None]
    return class_groups(out).to(out.scores).where(known, out.scores.detach().softmax(1))


def _as_predicted(out: Forward, means: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Return the rows without labels as one group [B, 1], the mean of the classes' ``means`` [1, D] weighted by their mean predicted
    probabilities, and that share of these which is of classes that somebody has [1].
    """
    target = out.batch.domain > 0
    predicted = predicted_classes(out) * (share > 0)
    known = predicted.sum(0, keepdim=True)
    return target[:, None], predicted[None] @ means.to(predicted) / known.clamp_min(1e-9), known


def discrepancy(vectors: Tensor, groups: Tensor, means: Tensor, present: Tensor) -> Tensor:
    """
    Return the sum over groups that are ``present`` [G] of their share of the rows times the squared distance between the mean of
    their ``vectors`` [B, D], which are 1 long, and ``means`` [G, D]; ``groups`` [B, G] holds how much a row belongs to each.
    A group with less than two rows counts as 0.
    """
    groups = groups.to(vectors)
    total = groups.sum(0)
    weights = groups / total.clamp_min(1e-9)
    own = weights.pow(2).sum(0)  # the part of ||m||^2 that is each row's product with itself
    enough = present & (own < 1 - 1e-6) & (total > 1e-6)
    mean = weights.T @ vectors
    squared = (mean.pow(2).sum(1) - own) / (1 - own).where(enough, 1)
    distance = squared - 2 * (mean * means).sum(1) + means.pow(2).sum(1)
    return (total / max(1, len(vectors)) * distance).where(enough, 0).sum()


@dataclass(frozen=True)
class JointDiscrepancy(SiloMeanDiscrepancy):
    """
    Long et al., 2017 (JAN): features and predictions together have the same distribution in silos with and without labels.

    As ``silo_mmd``, by the product of the layers' kernels: that of Gaussian kernels of several vectors is the Gaussian kernel of
    the vectors side by side.
    """

    layers: Layers = (FEATURES, SCORES)
    joint = True
    summary_name = "joint_embedding"
