"""
Which silos of a simulated run resemble a new one: by the prototypes that each silo could send, and by nothing else of its rows.

At an institution a silo's ``Prototypes`` would be one more summary that leaves; nothing here asks for it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedtl.data import prepare
from fedtl.errors import ConfigError
from fedtl.experiment.backbone import Backbone
from fedtl.methods.base import LabelledFeatures
from fedtl.methods.fedproto import Prototypes, prototypes_of
from fedtl.methods.losses import Batch, Computed, Forward, Pass
from fedtl.training.at_home import features_by

PrototypesByLabel = Mapping[str, Tensor]


def check_comparable(backbone: Backbone) -> None:
    """Raise ConfigError where the rows of the silos that trained may not, or cannot, be read."""
    if not backbone.trained:
        raise ConfigError(
            f"--match: {backbone.where} does not say which silos trained it; give the run's folder"
        )
    if backbone.experiment.privacy is not None:
        raise ConfigError(
            "--match: prototypes of a private run's silos would leave without noise; leave it out"
        )


def prototypes(rows: LabelledFeatures, classes: tuple[str, ...], clip: float) -> PrototypesByLabel:
    """Return the mean of features, limited to the length ``clip``, of each label that has rows, as ``Prototypes`` gives it."""
    summary = Prototypes(clip)
    made = Pass(rows.features, torch.zeros(len(rows), len(classes)))
    batch = Batch(rows.features, rows.y, torch.zeros(len(rows)))
    means, present = prototypes_of(summary.rows(Forward(batch, Computed(made))).mean(0), clip)
    return {name: means[number] for number, name in enumerate(classes) if bool(present[number])}


def resembling(
    backbone: Backbone,
    support: LabelledFeatures,
    classes: tuple[str, ...],
    show: Callable[[int, int, str], None],
) -> dict[str, float]:
    """
    Return by silo of the run its mean distance over the labels that both have, divided by the spread of the new silo's rows (the
    root mean squared distance to their prototype). ``support``: the labelled rows of the new silo. A silo without a
    common label, or whose labels are not used, is left out. Raises DataError.
    """
    clip = float(support.features.norm(dim=1).max())
    own = prototypes(support, classes, clip)
    apart = torch.stack([own[classes[number]] for number in support.y.tolist()]) - support.features
    spread = apart.pow(2).sum(1).mean().sqrt().clamp_min(1e-12)
    distances: dict[str, float] = {}
    for done, name in enumerate(backbone.trained):
        show(done, len(backbone.trained), f"prototypes of {name}")
        theirs = _of_silo(backbone, name, clip)
        if common := own.keys() & theirs.keys():
            gaps = torch.stack([(own[label] - theirs[label]).norm() for label in sorted(common)])
            distances[name] = float(gaps.mean() / spread)
    return distances


def _of_silo(backbone: Backbone, name: str, clip: float) -> PrototypesByLabel:
    """Return the prototypes of a silo that trained, by the backbone with the exact statistics of its training inputs."""
    experiment = backbone.experiment
    raw = prepare.read_silo(experiment.data, name)
    classes = prepare.silo_classes(raw, experiment.data)
    known = frozenset(backbone.labels)
    prepared = prepare.prepare_silo(raw, experiment.data, name, experiment.split_seed, classes, known)
    features = features_by(
        backbone.trainer, backbone.state(prepared.data), prepared.data.train, prepared.data
    )
    return prototypes(features, classes, clip)
