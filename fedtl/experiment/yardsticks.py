"""
Yardsticks of a comparison that no run trains by itself.

"local ensemble": two local models of a silo, from two initial weights and on the same rows; their probabilities, or in
regression their values, are averaged. It tells what an ensemble alone gives. "constant": the same answer for every row, from
the silo's training labels alone: the majority class, or in regression the mean. A model below it has learned nothing. A silo
without labels has neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

import fedtl
from fedtl.data.dataset import SiloDataset
from fedtl.data.labels import has_label
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.data_schema import read_data_schema
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.side_results import CONSTANT
from fedtl.experiment.study import study_data, training_silos
from fedtl.experiment.study_data import RowStores
from fedtl.results.run import RunResult, SiloResult
from fedtl.simulation.shared_store import SharedStore, temporary_store
from fedtl.tasks.base import LearningTask
from fedtl.training.metrics import means, measure, worst_of


def second_member(experiment: Experiment, seeds: Sequence[int]) -> Experiment:
    """
    Return the experiment of an ensemble's second model: with the same rows for training, validation and testing, and with a
    seed of its own, which decides initial weights and batches.
    """
    data, other = experiment.data, max(seeds) + 1 + experiment.seed
    if data.split_seed is None:
        data = data.model_copy(update={"split_seed": experiment.seed})
    return experiment.model_copy(update={"seed": other, "data": data})


def write_ensemble(folder: RunFolder, members: Sequence[RunFolder]) -> None:
    """Write the result of an ensemble of finished runs on the same rows. Raises ValueError where their test rows differ."""
    if folder.has("result.json"):
        return
    task, shares = members[0].experiment().data.predicted, [1 / len(members)] * len(members)
    results, silos = [member.result() for member in members], dict[str, SiloResult]()
    for name, own in results[0].silos.items():
        file = f"silos/{name}/test.safetensors"
        first, *others = tests = [member.tensors(file) for member in members]
        if any(
            not torch.equal(first[key].nan_to_num(-1), other[key].nan_to_num(-1))
            for other in others
            for key in ("ids", "y")
        ):
            raise ValueError(f"{name}: the members of an ensemble have different test rows")
        scores = task.mixed([test["scores"].double() for test in tests], shares)
        silos[name] = _tested(
            (folder, name, task), own.train, own.val, {**first, "scores": scores.to(first["scores"].dtype)}
        )
    seconds = sum(result.seconds for result in results)
    folder.write_json("result.json", _result(results[0], "local ensemble", silos, seconds))


def write_constant(experiment: Experiment, folder: RunFolder, raws: SharedStore) -> None:
    """Write the result of the constant answers. Raises DataError or ConfigError."""
    if folder.has("result.json"):
        return
    silos: dict[str, SiloResult] = {}
    with temporary_store() as prepared:
        stores = RowStores(raws, prepared)
        schema = read_data_schema(experiment, lambda name: stores.stored(experiment.data, name))
        rows = study_data(experiment, stores, schema)
        for name in training_silos(experiment, schema):
            data, evaluation_set = rows.dataset(name), rows.evaluation_set(name)
            if not data.has_labels:
                continue
            y = evaluation_set.test.y
            scores = data.task.repeated(constant_scores(data), y).contiguous()
            test = {"scores": scores, "y": y, "ids": evaluation_set.ids}
            test |= {} if evaluation_set.units is None else {"units": evaluation_set.units}
            silos[name] = _tested((folder, name, data.task), len(data.train), len(data.val), test)
    empty = RunResult(
        fedtl=fedtl.__version__,
        method=CONSTANT,
        model=CONSTANT,
        task=experiment.data.task,
        metric=experiment.metric,
        seed=experiment.seed,
        rounds=0,
        silos={},
        mean={},
        mean_silos={},
        worst=worst_of(experiment.metric, {}),
        notes=(),
        bytes_up=0,
        bytes_down=0,
        seconds=0.0,
        device="cpu",
        workers=1,
    )
    folder.write_json("result.json", _result(empty, CONSTANT, silos, 0.0))


def constant_scores(data: SiloDataset) -> Tensor:
    """Return the one answer [width] to every row, from the labels of training rows."""
    return data.task.constant_scores(data.train.take(has_label(data.train)).y, data.width)


def _tested(
    where: tuple[RunFolder, str, LearningTask], train: int, val: int, test: Mapping[str, Tensor]
) -> SiloResult:
    folder, name, task = where
    folder.save_tensors(f"silos/{name}/test.safetensors", dict(test))
    return SiloResult(train, val, len(test["y"]), measure(test["scores"], test["y"], task))


def _result(like: RunResult, method: str, silos: Mapping[str, SiloResult], seconds: float) -> RunResult:
    tests = {name: silo.measured.figures for name, silo in silos.items()}
    mean, counts = means(tests)
    return replace(
        like,
        method=method,
        silos=dict(silos),
        mean=mean,
        mean_silos=counts,
        worst=worst_of(like.metric, tests),
        late={},
        left_out={},
        notes=(),
        bytes_up=0,
        bytes_down=0,
        seconds=seconds,
    )
