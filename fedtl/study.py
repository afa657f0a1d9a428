"""
One run: from an experiment to a run folder. Builds silos, engine and method, and drives the rounds.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

import fedtl
from fedtl.coordinator import Plan, Round, Standing, rounds
from fedtl.data import prepare
from fedtl.data.prepare import Exam, Prepared
from fedtl.data.raw import Raw
from fedtl.errors import ConfigError, DataError, SiloFailed
from fedtl.examine import Examine, Onboard, Outcome
from fedtl.experiment.choices import method_of, server_of
from fedtl.experiment.schema import Experiment
from fedtl.messages import Task
from fedtl.method import Method
from fedtl.metrics import better, mean_over_silos
from fedtl.models import weights
from fedtl.models.catalogue import blueprint
from fedtl.models.net import Blueprint, stages
from fedtl.partition import roles
from fedtl.pretrain import plain, pretrained
from fedtl.randomness import address
from fedtl.runfolder import RunFolder
from fedtl.silo import Bench, Silo, SiloData, Training, pool
from fedtl.simulate.engine import Engine, Simulation
from fedtl.simulate.processes import Processes, Workplace
from fedtl.simulate.serial import Serial
from fedtl.state import State, size_in_bytes

POOLED = "pooled"
Progress = Callable[[Round], None]


@dataclass(frozen=True)
class Survey:
    """What all silos must agree on before anything is trained: found by looking at each silo once."""

    shape: tuple[int, ...]
    classes: Mapping[str, tuple[str, ...]]
    trained: Mapping[str, frozenset[str]]
    rows: Mapping[str, int]

    @cached_property
    def union(self) -> tuple[str, ...]:
        return prepare.vocabulary(list(self.classes.values()))


def survey(experiment: Experiment) -> Survey:
    """Read every silo once. Raises ConfigError or DataError."""
    names = prepare.names(experiment.data)
    public = [name for name in experiment.model.pretrain_on if ":" not in name]
    if unknown := set(public) - set(names):
        raise ConfigError(
            f"model.pretrain_on: there is no silo {sorted(unknown)[0]!r}; there are {', '.join(names[:12])}"
        )
    training = [name for name in names if name not in experiment.data.late and name not in public]
    if not training:
        raise ConfigError("no silo is left to train: all are in data.late or model.pretrain_on")
    if isinstance(experiment.silos_per_round, int) and experiment.silos_per_round > len(training):
        raise ConfigError(
            f"silos_per_round = {experiment.silos_per_round}, but only {len(training)} silos train"
        )
    if experiment.minimum_silos > len(training):
        raise ConfigError(f"minimum_silos = {experiment.minimum_silos}, but only {len(training)} silos train")
    raws = {name: prepare.read(experiment.data, name) for name in names}
    return Survey(
        shape=_common_shape(raws, experiment),
        classes={name: prepare.classes(raw, experiment.data) for name, raw in raws.items()},
        trained={name: frozenset(prepare.spelled(raw.train.y)) for name, raw in raws.items()},
        rows={name: len(raw.train.y) for name, raw in raws.items()},
    )


@dataclass(frozen=True)
class Study:
    """An experiment with its data looked at and its model built: all that a room needs to work."""

    experiment: Experiment
    method: Method
    survey: Survey
    bench: Bench
    notes: tuple[str, ...] = ()

    @property
    def training(self) -> list[str]:
        """The silos that train."""
        aside = {*self.experiment.data.late, *self.experiment.model.pretrain_on}
        return [name for name in self.survey.classes if name not in aside]

    def prepared(self, name: str) -> Prepared:
        """One silo's data. Raises DataError."""
        own_head = self.method.head_is_local
        labels = self.survey.classes[name] if own_head else self.survey.union
        trained = self.survey.trained[name] if own_head else frozenset().union(*self.survey.trained.values())
        data = self.experiment.data
        return prepare.prepare(prepare.read(data, name), data, name, self.experiment.seed, labels, trained)

    def silo(self, name: str, data: SiloData) -> Silo:
        """A silo before its first round; its secret is the seed's, for a simulation has nobody to protect."""
        _, local = self.bench.partition.split(self.bench.initial(data.width))
        return Silo(
            name, data, local, secret=address("secret", self.experiment.seed, name).to_bytes(8, "big")
        )


def build(
    experiment: Experiment, device: str = "cpu", start: State | None = None, seen: Survey | None = None
) -> Study:
    """Raises ConfigError, DataError or ModelError; nothing is trained yet."""
    seen = seen or survey(experiment)
    method = method_of(experiment.method)
    plan = _blueprint(experiment, seen.shape)
    notes: list[str] = []
    found = len(stages(plan.body))
    if experiment.model.freeze > found:
        raise ConfigError(
            f"model.freeze = {experiment.model.freeze}, but the body of {experiment.model.name} has {found} stages"
        )
    if experiment.model.weights not in ("", "pretrained"):
        net = plan.net(len(seen.union) or 1)
        path = Path(experiment.model.weights)
        start, notes = weights.fit(weights.read(path), net.state_dict(), roles(net), plan, path.name)
    train = experiment.train
    training = Training(**{**train.model_dump(), "freeze": experiment.model.freeze})
    return Study(experiment, method, seen, Bench(plan, method, training, device, start), tuple(notes))


def run(
    experiment: Experiment,
    folder: RunFolder,
    device: str = "cpu",
    progress: Progress | None = None,
    start: State | None = None,
) -> dict[str, Any]:
    """
    Run the experiment, or what is left of it, and return what ``result.json`` then holds.

    The test rows are opened once, after the last round. Raises what ``build`` raises, and NotEnoughSilos.
    """
    if folder.has("result.json"):
        return folder.read_json("result.json")
    torch.set_num_threads(experiment.engine.threads)
    seen = survey(experiment)
    if experiment.model.pretrain_on and start is None:
        start = pretrained(experiment, folder, build(plain(experiment), device, None, seen).bench)
    study = build(experiment, device, start, seen)
    everybody = {
        name: study.prepared(name) for name in seen.classes if name not in experiment.model.pretrain_on
    }
    members = _members(study, {name: everybody[name].data for name in study.training})
    begun = _begin(study, folder, members)
    clock = time.perf_counter()
    with _engine(study, device, start, len(members)) as engine:
        standing, sums = _train(study, folder, members, begun, engine, progress)
        task = Task(
            folder.path.name, experiment.rounds + 1, experiment.rounds, experiment.seed, standing.shared
        )
        silos = [members.get(name) or study.silo(name, everybody[name].data) for name in study.training]
        exam = partial(_exam, _Source(experiment, seen))
        outcomes: dict[str, Any] = dict(sorted(engine.each(Examine(task, exam), silos), key=itemgetter(0)))
        late = [study.silo(name, everybody[name].data) for name in experiment.data.late]
        onboard = Onboard(task, exam, experiment.data.shots, experiment.rounds * experiment.train.epochs)
        onboarded: dict[str, Any] = dict(engine.each(onboard, late))
        workers = engine.workers
    for outcome in (*outcomes.values(), *onboarded.values()):
        if isinstance(outcome, SiloFailed):
            raise outcome
    _keep(study, folder, standing.shared, outcomes, everybody)
    sums["seconds"] += time.perf_counter() - clock - sums.pop("trained", 0.0)
    result = _result(study, folder, outcomes, onboarded, everybody, sums) | {
        "device": device,
        "workers": workers,
    }
    folder.write_json("result.json", result)
    return result


def furnish(experiment: Experiment, seen: Survey, device: str, start: State | None) -> Workplace:
    """A worker's workplace, built in the worker."""
    study = build(experiment, device, start, seen)
    return Workplace(study.bench, lambda name: study.prepared(name).data)


@dataclass(frozen=True)
class _Source:
    """Enough to come by any silo's exam in any process."""

    experiment: Experiment
    seen: Survey


def _exam(source: _Source, name: str) -> Exam:
    method = method_of(source.experiment.method)
    study = Study(source.experiment, method, source.seen, bench=None)  # type: ignore[arg-type]
    return study.prepared(name).exam


def _engine(study: Study, device: str, start: State | None, silos: int) -> Engine:
    settings = study.experiment.engine
    cores = torch.cuda.device_count() if device == "cuda" else len(os.sched_getaffinity(0))
    workers = min(settings.workers or cores, silos)
    if settings.name == "serial" or workers < 2:
        return Serial(study.bench)
    return Processes(
        partial(furnish, study.experiment, study.survey, device, start), workers, settings.threads
    )


def _members(study: Study, data: Mapping[str, SiloData]) -> dict[str, Silo]:
    """Who takes part in the rounds: every silo, or, for the yardstick, one that has everybody's rows."""
    if study.method.pool:
        return {POOLED: study.silo(POOLED, pool(list(data.values())))}
    return {name: study.silo(name, its) for name, its in data.items()}


def _begin(study: Study, folder: RunFolder, members: dict[str, Silo]) -> tuple[Standing, dict[str, float]]:
    """The first standing, or the last one saved, with the silos' local tensors put back."""
    if saved := folder.saved():
        standing, locals_, sums = saved
        for name, local in locals_.items():
            members[name].local = local
        return standing, sums
    width = next(iter(members.values())).data.width
    shared, _ = study.bench.partition.split(study.bench.initial(width))
    return Standing(0, shared), {"bytes_up": 0, "bytes_down": 0, "seconds": 0.0}


def _train(
    study: Study,
    folder: RunFolder,
    members: dict[str, Silo],
    begun: tuple[Standing, dict[str, float]],
    engine: Engine,
    progress: Progress | None,
) -> tuple[Standing, dict[str, float]]:
    standing, sums = begun
    experiment = study.experiment
    per_round = (
        None if experiment.silos_per_round == "all" or study.method.pool else int(experiment.silos_per_round)
    )
    minimum = 1 if study.method.pool else experiment.minimum_silos
    plan = Plan(
        folder.path.name, experiment.seed, experiment.rounds, server_of(experiment.method), per_round, minimum
    )
    clock = started = time.perf_counter()
    for one in rounds(Simulation(engine, members), plan, standing, study.bench.partition.roles):
        standing, now = one.after, time.perf_counter()
        sums["bytes_up"] += one.bytes_up
        sums["bytes_down"] += one.bytes_down
        sums["seconds"] += now - clock
        folder.append(_line(one, now - clock))
        clock = now
        folder.save(standing, {name: silo.local for name, silo in members.items()}, sums)
        if progress:
            progress(one)
    return standing, sums | {"trained": clock - started}


def _line(one: Round, seconds: float) -> dict[str, Any]:
    return {
        "round": one.after.round,
        "seconds": round(seconds, 3),
        "silos": {name: dict(reply.metrics) for name, reply in one.replies.items()},
        "left_out": dict(one.left_out),
        "bytes_up": one.bytes_up,
        "bytes_down": one.bytes_down,
    }


def _keep(
    study: Study,
    folder: RunFolder,
    shared: State,
    outcomes: Mapping[str, Outcome],
    everybody: Mapping[str, Prepared],
) -> None:
    """What a silo would use: local.safetensors holds whatever differs from the shared tensors."""
    folder.save_tensors("shared.safetensors", shared)
    for name, outcome in outcomes.items():
        own = {
            key: tensor
            for key, tensor in outcome.state.items()
            if key not in shared or not torch.equal(tensor, shared[key])
        }
        folder.save_tensors(f"silos/{name}/local.safetensors", own)
        test = {"scores": outcome.scores, "y": outcome.y, "ids": outcome.ids}
        folder.save_tensors(f"silos/{name}/test.safetensors", test)
        its = everybody[name]
        folder.save_inputs(name, its.inputs, its.data.classes, study.survey.shape)


def _result(
    study: Study,
    folder: RunFolder,
    outcomes: Mapping[str, Outcome],
    onboarded: Mapping[str, Any],
    everybody: Mapping[str, Prepared],
    sums: Mapping[str, float],
) -> dict[str, Any]:
    experiment, metric = study.experiment, study.experiment.metric
    silos: dict[str, dict[str, Any]] = {}
    for name in sorted(outcomes):
        outcome, data = outcomes[name], everybody[name].data
        silos[name] = {"train": len(data.train), "val": len(data.val), "test": len(outcome.y), **outcome.test}
        extra = {
            "validation": outcome.validation,
            "target": outcome.target,
            "target_adabn": outcome.target_adabn,
        }
        silos[name] |= {key: figures for key, figures in extra.items() if figures}
    tests = {name: outcome.test for name, outcome in outcomes.items()}
    measured = [name for name in sorted(tests) if metric in tests[name]]
    worst = measured[0] if measured else None
    for name in measured:
        if worst is not None and better(metric, tests[worst][metric], tests[name][metric]):
            worst = name
    left_out: dict[str, list[str]] = {}
    for line in folder.history():
        for name, reason in line["left_out"].items():
            left_out.setdefault(name, []).append(f"round {line['round']}: {reason}")
    optional = {"late": dict(sorted(onboarded.items())), "left_out": left_out}
    return {
        "fedtl": fedtl.__version__,
        "method": experiment.method.name,
        "model": experiment.model.name,
        "task": experiment.data.task,
        "metric": metric,
        "seed": experiment.seed,
        "rounds": experiment.rounds,
        "silos": silos,
        "mean": mean_over_silos(tests),
        "worst": {} if worst is None else {"silo": worst, metric: tests[worst][metric]},
        **{key: value for key, value in optional.items() if value},
        "notes": [*study.notes, *_notes(study)],
        "bytes_up": int(sums["bytes_up"]),
        "bytes_down": int(sums["bytes_down"]),
        "seconds": round(sums["seconds"], 3),
    }


def _notes(study: Study) -> list[str]:
    if study.method.adapt and not any(role == "stats" for role in study.bench.partition.roles.values()):
        return [
            f"{study.experiment.model.name} has no running statistics, so there was nothing for AdaBN to adapt"
        ]
    return []


def _blueprint(experiment: Experiment, shape: tuple[int, ...]) -> Blueprint:
    model = experiment.model
    return blueprint(model.name, shape, experiment.seed, pretrained=model.weights == "pretrained")


def _common_shape(raws: Mapping[str, Raw], experiment: Experiment) -> tuple[int, ...]:
    """The shape of one input after resizing, the same at every silo. Raises DataError."""
    shapes = {name: prepare.shape_after(raw, experiment.data) for name, raw in raws.items()}
    first_name, first = next(iter(shapes.items()))
    for name, shape in shapes.items():
        if shape != first:
            way = (
                "set data.size and data.channels" if len(shape) == 3 else "choose data.columns that all have"
            )
            raise DataError(f"silo {name} has inputs of shape {shape}, silo {first_name} of {first}; {way}")
        if raws[name].columns != raws[first_name].columns:
            odd = sorted(set(raws[name].columns) ^ set(raws[first_name].columns)) or [
                "the same in another order"
            ]
            raise DataError(
                f"silo {name} and silo {first_name} differ in columns: {odd[0]}; choose data.columns"
            )
    return first


def tensor_table(study: Study) -> list[dict[str, Any]]:
    """Every tensor of the model: name, role, shape, bytes, and whether it leaves a silo."""
    width = len(study.survey.union) or 1
    partition = study.bench.partition
    return [
        {
            "name": name,
            "role": str(partition.roles[name]),
            "shape": list(tensor.shape),
            "bytes": size_in_bytes({name: tensor}),
            "leaves": partition.leaves(name),
        }
        for name, tensor in study.bench.net(width).state_dict().items()
    ]
