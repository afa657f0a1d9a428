"""
The features of test rows before and after training, in two dimensions, and how far each silo's normalisation statistics are from the
mean: ``fedtl report RUN --features``. It reads the rows and builds the models again, and trains nothing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from fedtl.data.dataset import Dataset
from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study, build
from fedtl.models.norms import statistics_distance
from fedtl.models.roles import Role
from fedtl.models.state import State
from fedtl.results.page_facts import FeatureMap, FeaturePoint, Features
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.at_home import trainer_of
from fedtl.training.evaluate import features_of
from fedtl.training.nets import Use
from fedtl.training.trainer import Trainer, trainer_at

MAX_ROWS = 400  # points of one map, the same number of each silo


def features(folder: RunFolder) -> Features:
    """
    Return both maps of a finished run. Raises ConfigError for a private run, whose guarantee does not cover a picture of test rows, and
    where the rows cannot be read again.
    """
    experiment, silos = folder.experiment(), list(folder.result().silos)
    if experiment.privacy is not None:
        raise ConfigError(
            "--features: the run is private, and its guarantee does not cover a picture of test rows; leave it out"
        )
    models = {silo: SiloModel(folder, silo) for silo in silos}
    if len({model.trainer.spec.features for model in models.values()}) > 1:
        raise ConfigError(
            "--features: silos have models of different widths, whose features cannot be compared; leave it out"
        )
    with temporary_store() as store:
        study = build(experiment, store, store)
        rows = {
            silo: _evenly(study.evaluation_set(silo).test, max(2, MAX_ROWS // len(silos))) for silo in silos
        }
    names = {silo: _labels(experiment, models[silo], rows[silo]) for silo in silos}
    after = {silo: _features(models[silo], rows[silo].x) for silo in silos}
    before = None
    if not experiment.model.pretrain_on:
        first = {silo: _first_features(study, models[silo], rows[silo].x) for silo in silos}
        before = _in_plane(first, names)
    return Features(before, _in_plane(after, names), _from_mean(models))


def _evenly(rows: Dataset, most: int) -> Dataset:
    """Return at most ``most`` of the rows, evenly spaced."""
    return rows.take(torch.arange(0, len(rows), max(1, -(-len(rows) // most))))


def _labels(experiment: Experiment, model: SiloModel, rows: Dataset) -> list[str]:
    """Return the name of each row's class; "" where rows have no single one."""
    task = experiment.data.predicted
    if not (task.has_classes and task.exclusive) or rows.y.dim() != 1:
        return [""] * len(rows)
    return [model.classes[int(number)] for number in rows.y]


def _features(model: SiloModel, x: Tensor) -> Tensor:
    """Return the features [N, D] by the silo's model, or by the main one of its mix."""
    trainer = trainer_of(model.final.main, model.trainer)
    return _of_state(trainer, model.final.main.state, model.data.width, x)


def _first_features(study: Study, model: SiloModel, x: Tensor) -> Tensor:
    """Return the features [N, D] by the model as it was before the first round."""
    trainer = trainer_at(study.trainer, model.silo)
    return _of_state(trainer, trainer.initial(model.data.width), model.data.width, x)


def _of_state(trainer: Trainer, state: State, width: int, x: Tensor) -> Tensor:
    net = trainer.net(width, Use.EVALUATION)
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    return features_of(net, x, trainer.device, trainer.dtype)


def _in_plane(by_silo: Mapping[str, Tensor], labels: Mapping[str, Sequence[str]]) -> FeatureMap:
    """Return the first two principal components of the features of all silos together (Pearson, 1901)."""
    every = torch.cat(list(by_silo.values())).double().numpy()
    count = min(2, *every.shape)
    model = PCA(count, svd_solver="full")
    plane = np.zeros((len(every), 2))
    plane[:, :count] = model.fit_transform(every)
    owners = [(silo, label) for silo in by_silo for label in labels[silo]]
    points = tuple(
        FeaturePoint(*owner, float(x), float(y)) for owner, (x, y) in zip(owners, plane, strict=True)
    )
    return FeatureMap(points, tuple(np.nan_to_num(model.explained_variance_ratio_).tolist()))


def _from_mean(models: Mapping[str, SiloModel]) -> dict[str, float]:
    """Return by silo the distance (``models.norms.statistics_distance``) of its statistics from the mean over silos."""
    own: dict[str, State] = {}
    for silo, model in models.items():
        roles = trainer_of(model.final.main, model.trainer).partition.roles
        own[silo] = {
            name: tensor for name, tensor in model.final.main.state.items() if roles.get(name) is Role.STATS
        }
    states = list(own.values())
    if not states[0] or len({frozenset(state) for state in states}) > 1:
        return {}
    mean = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
    distances = {silo: statistics_distance(mean, state) for silo, state in own.items()}
    return {silo: distance for silo, distance in distances.items() if distance is not None}
