"""
One run: from an experiment to a run folder. Builds silos, engine and method, and drives the rounds.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import fedtl
from fedtl import machine
from fedtl.bench import Bench, Training
from fedtl.coordinator import Federation, Plan, Round, Standing, rounds
from fedtl.data import prepare
from fedtl.data.inputs import Inputs
from fedtl.data.prepare import Exam, Prepared
from fedtl.data.raw import Raw
from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError, SiloFailed
from fedtl.examine import Examine, Onboard, Outcome
from fedtl.experiment.choices import method_of, privacy_of, server_of
from fedtl.experiment.schema import Experiment
from fedtl.messages import Task
from fedtl.method import Method
from fedtl.metrics import means, worst_of
from fedtl.models.catalogue import blueprint, privately
from fedtl.models.net import Blueprint, stages
from fedtl.models.scaled import with_input_scale
from fedtl.notes import statistics_notes
from fedtl.partition import Role
from fedtl.planning import Place, claim, promise, spent, warnings
from fedtl.pretrain import plain, pretrained, statistics_of_noise
from fedtl.privacy import labels, origins
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.charge import foresee
from fedtl.privacy.labels import Label
from fedtl.privacy.promise import Promise
from fedtl.provenance import settled, trained
from fedtl.randomness import address
from fedtl.recorder import Recorded, kept_rounds
from fedtl.runfolder import TRANSCRIPT, RunFolder
from fedtl.silo import Silo, SiloData, pool
from fedtl.silonorm import convert_state
from fedtl.simulate import choose
from fedtl.simulate.engine import Engine, Job, Simulation, Workplace
from fedtl.simulate.scratch import adopt
from fedtl.simulate.shelf import Shelf, temporary
from fedtl.start import from_file
from fedtl.state import State, size_in_bytes
from fedtl.survey import Survey, survey

EXACT = ("silos", "mean", "worst", "late")  # of a result: figures on test rows, for whoever simulates
NOTHING = torch.empty(0)
POOLED = "pooled"
Progress = Callable[[Round], None]


@dataclass(frozen=True)
class Study:
    """An experiment with its data looked at and its model built: all that a room needs to work."""

    experiment: Experiment
    method: Method
    survey: Survey
    bench: Bench
    shelf: Shelf
    raws: Shelf
    notes: tuple[str, ...] = ()
    promises: Mapping[str, Promise] = field(default_factory=dict)
    first: Mapping[str, Label] = field(default_factory=dict)  # where the first weights come from, by tensor

    @property
    def training(self) -> list[str]:
        """The silos that train."""
        aside = {*self.experiment.data.late, *self.experiment.model.pretrain_on}
        return [name for name in self.survey.silos if name not in aside]

    def data(self, name: str) -> SiloData:
        """What a silo learns from. Raises DataError."""
        return self._prepared(name, "data")

    def exam(self, name: str) -> Exam:
        """A silo's test rows. Raises DataError."""
        return self._prepared(name, "exam")

    def inputs(self, name: str) -> Inputs:
        """How a silo's inputs were made. Raises DataError."""
        return self._prepared(name, "inputs")

    def trained(self, name: str) -> dict[str, Label]:
        """Where each tensor at a silo comes from after the last round."""
        private = self.experiment.privacy is not None
        return trained(self.bench, self.first, privacy_of(self.experiment, name) if private else None)

    def _prepared(self, name: str, part: str) -> Any:
        """One part of a silo's data: prepared once, whoever asks first, and then mapped from the shelf."""
        if not self.shelf.has(f"{name}.{part}"):
            prepared = self.prepared(name, reader(self.raws, self.experiment.data)(name))
            for key in ("data", "exam", "inputs"):
                self.shelf.keep(f"{name}.{key}", partial(getattr, prepared, key))
        return self.shelf.take(f"{name}.{part}")

    def prepared(self, name: str, raw: Raw) -> Prepared:
        """A silo's stored rows as its data; anew each time. Raises DataError."""
        settings, its = self.experiment.data, self.survey.silos[name]
        own = self.method.head_is_local
        labels, trained = (its.classes, its.trained) if own else (self.survey.union, self.survey.trained)
        return prepare.prepare(raw, settings, name, self.experiment.seed, labels, trained)

    @property
    def source(self) -> "_Source":
        return _Source(self.experiment, self.survey, self.shelf, self.raws)

    def silo(self, name: str, data: SiloData) -> Silo:
        """A silo before its first round; its secret is the seed's, for a simulation has nobody to protect."""
        _, local = self.bench.partition.split(self.bench.initial(data.width))
        return Silo(name, data, local, self.secret(name), self.promises.get(name), labels.public(Role))

    def secret(self, name: str) -> bytes:
        return address("secret", self.experiment.seed, name).to_bytes(8, "big")

    def promised(self, folder: RunFolder) -> "Study":
        """With each training silo's promise, kept in the folder; as it is where nothing is private."""
        if self.experiment.privacy is None:
            return self
        for text in self.unknown():
            raise ConfigError(text)
        return replace(
            self, promises={name: self.promise(name, folder.path / "silos" / name) for name in self.training}
        )

    def unknown(self) -> Iterator[str]:
        """Tables ``[silo.<name>]`` of silos that do not train: a line each."""
        for name in sorted(set(self.experiment.silo) - set(self.training)):
            yield f"silo.{name}: no silo of that name trains; there are {', '.join(self.training[:12])}"

    def promise(self, name: str, home: Path, data: SiloData | None = None) -> Promise:
        """What a silo promises for this experiment, for its own data or for other ``data``. Raises ConfigError."""
        settings, data = privacy_of(self.experiment, name), data or self.data(name)
        place = Place(home / "ledger.sqlite", name, self.secret(name))
        if settings.statistics == "auto":
            settings = settings.model_copy(update={"statistics": "public"})
        its = promise(settings, self.bench, data, self.experiment.rounds, self.experiment.seed, place)
        if not (count := self.experiment.audit.canaries):
            return its
        coins = address("canaries", self.experiment.seed, name, key=self.secret(name))
        return replace(its, canaries=Canaries(count, coins, home / "canaries"))


def reader(raws: Shelf, settings: DataSettings) -> Callable[[str], Raw]:
    """A silo's rows as they are stored; from its source the first time, from the shelf after that."""
    return lambda name: raws.keep(f"{name}.raw", lambda: prepare.read(settings, name))


def build(
    experiment: Experiment,
    raws: Shelf,
    shelf: Shelf,
    device: str = "cpu",
    start: State | None = None,
    seen: Survey | None = None,
) -> Study:
    """
    ``raws`` and ``shelf`` take the silos' rows, as they are stored and as they are prepared.

    Raises ConfigError, DataError or ModelError; nothing is trained yet.
    """
    seen = seen or survey(experiment, reader(raws, experiment.data))
    method = method_of(experiment.method)
    if experiment.privacy is not None:  # exact statistics are for use at home, after the last release
        after = experiment.privacy.statistics == "local-after"
        method = replace(method, exact_statistics="always" if after else "never")
    plan = _blueprint(experiment, seen.shape)
    notes: list[str] = []
    found = len(stages(plan.body))
    if experiment.model.freeze > found:
        raise ConfigError(
            f"model.freeze = {experiment.model.freeze}, but the body of {experiment.model.name} has {found} stages"
        )
    said: Mapping[str, Label] = {}
    if experiment.model.weights not in ("", "pretrained"):
        file = from_file(Path(experiment.model.weights), plan, len(seen.union) or 1)
        start, said, notes = file.state, file.labels or {}, file.notes
        if experiment.privacy is not None:
            notes += file.vouched()
    if experiment.privacy is not None:
        ordinary = plan.net(len(seen.union) or 1)
        plan, start, said = (
            _privately(experiment, plan, seen.shape),
            convert_state(ordinary, start or {}),
            convert_state(ordinary, said),
        )
    train = experiment.train
    training = Training(**{**train.model_dump(), "freeze": experiment.model.freeze})
    bench = Bench(plan, method, training, device, start, experiment.model.dtype)
    if experiment.privacy is not None and not (experiment.model.weights or experiment.model.pretrain_on):
        start = {**(start or {}), **statistics_of_noise(bench, seen.shape, len(seen.union) or 1)}
        bench = Bench(plan, method, training, device, start, experiment.model.dtype)
    choose.check(experiment.engine, bench)
    first = {**labels.public(bench.partition.roles), **said}
    return Study(experiment, method, seen, bench, shelf, raws, tuple(notes), first=first)


def run(
    experiment: Experiment,
    folder: RunFolder,
    device: str = "cpu",
    progress: Progress | None = None,
    start: State | None = None,
    raws: Shelf | None = None,
) -> dict[str, Any]:
    """
    Run the experiment, or what is left of it, and return what ``result.json`` then holds.

    The test rows are opened once, after the last round. ``raws``: where several runs share what they read.
    Raises what ``build`` raises, BudgetExhausted where a silo's ledger has no room for the whole run, and NotEnoughSilos.
    """
    if folder.has("result.json"):
        return folder.read_json("result.json")
    machine.settle(experiment.engine.threads)
    with temporary() as shelf:
        raws = raws or shelf
        seen = survey(experiment, reader(raws, experiment.data))
        if experiment.privacy is not None:  # before anything is trained, public rows included
            _check_origins(_Source(experiment, seen, shelf, raws))
        if experiment.model.pretrain_on and start is None:
            central = build(plain(experiment), raws, shelf, device, None, seen)
            start = pretrained(experiment, folder, central.bench, seen)
        study = build(experiment, raws, shelf, device, start, seen).promised(folder)
        for its in study.promises.values():
            foresee(its, folder.path.name)
        for name in (*study.training, *experiment.data.late):
            study.data(name)
            if raws is shelf:
                shelf.drop(f"{name}.raw")  # nobody else needs it
        result = _run(study, folder, device, start, progress)
    folder.write_json("result.json", result)
    return result


def _run(
    study: Study, folder: RunFolder, device: str, start: State | None, progress: Progress | None
) -> dict[str, Any]:
    experiment = study.experiment
    everybody = {name: study.data(name) for name in (*study.training, *experiment.data.late)}
    members = _members(study, {name: everybody[name] for name in study.training})
    begun = _begin(study, folder, members)
    clock = time.perf_counter()
    place = partial(furnish, study.source, device, start)
    with choose.engine(experiment.engine, study.bench, place, len(members)) as engine:
        standing, sums = _train(study, folder, members, begun, engine, progress)
        shared = _shared_in_the_end(study, members, standing.shared)
        task = Task(folder.path.name, experiment.rounds + 1, experiment.rounds, experiment.seed, shared)
        labelled = labels.together(study.trained(name) for name in study.training)
        folder.save_tensors("shared.safetensors", shared, labelled)
        silos = [members.get(name) or study.silo(name, everybody[name]) for name in sorted(study.training)]
        exam = partial(_exam, study.source)
        examined: dict[str, Outcome] = {}
        for name, outcome in _all(engine, Examine(task, exam), silos):
            _keep(study, folder, shared, name, outcome)
            examined[name] = replace(outcome, state={}, scores=NOTHING, ids=NOTHING)  # the folder has them
        examined = dict(sorted(examined.items()))
        late = [study.silo(name, everybody[name]) for name in experiment.data.late]
        onboard = Onboard(task, exam, experiment.data.shots, experiment.rounds * experiment.train.epochs)
        onboarded = dict(_all(engine, onboard, late))
        workers = engine.workers
    sums["seconds"] += time.perf_counter() - clock - sums.pop("trained", 0.0)
    result = _result(study, folder, examined, onboarded, everybody, sums)
    return result | {"device": device, "workers": workers}


def _all(engine: Engine, job: Job, silos: Sequence[Silo]) -> Iterator[tuple[str, Any]]:
    """As Engine.each, where nobody may fail."""
    for name, result in engine.each(job, silos):
        if isinstance(result, SiloFailed):
            raise result
        yield name, result


@dataclass(frozen=True)
class _Source:
    """Enough of a study to come by any silo's data in any process; without a bench."""

    experiment: Experiment
    survey: Survey
    shelf: Shelf
    raws: Shelf

    def study(self, bench: Bench) -> Study:
        return Study(
            self.experiment, method_of(self.experiment.method), self.survey, bench, self.shelf, self.raws
        )


def furnish(source: _Source, device: str, start: State | None) -> Workplace:
    """A worker's workplace, built in the worker; on another machine the shelves are that machine's own."""
    for shelf in (source.raws, source.shelf):
        adopt(shelf.folder)
    study = build(source.experiment, source.raws, source.shelf, device, start, source.survey)
    return Workplace(study.bench, study.data)


def _check_origins(source: _Source) -> None:
    """Raise ConfigError where a silo's rows are prepared with values that were learned from them."""
    study = source.study(bench=None)  # type: ignore[arg-type]
    for name in study.training:
        origins.check(study.data(name).origins, name)


def _exam(source: _Source, name: str) -> Exam:
    return source.study(bench=None).exam(name)  # type: ignore[arg-type]


def _members(study: Study, data: Mapping[str, SiloData]) -> dict[str, Silo]:
    """Who takes part in the rounds: every silo, or, for the yardstick, one that has everybody's rows."""
    if study.method.pool:
        return {POOLED: study.silo(POOLED, pool(list(data.values())))}
    return {name: study.silo(name, its) for name, its in data.items()}


def _begin(study: Study, folder: RunFolder, members: dict[str, Silo]) -> tuple[Standing, dict[str, float]]:
    """The first standing, or the last one saved, with the silos' local tensors put back."""
    if saved := folder.saved():
        standing, locals_, sums = saved
        for name, own in locals_.items():
            members[name].local, members[name].labels = own
        return standing, sums
    width = next(iter(members.values())).data.width
    shared, _ = study.bench.partition.split(study.bench.initial(width))
    return Standing(0, shared), {"bytes_up": 0, "bytes_down": 0, "seconds": 0.0}


def _shared_in_the_end(study: Study, members: Mapping[str, Silo], shared: State) -> State:
    """What was averaged; of a pooled run, with the exact statistics of the pooled training rows."""
    if not study.method.pool:
        return shared
    pooled, bench = members[POOLED], study.bench
    state = bench.with_exact_statistics(pooled, bench.partition.join(shared, pooled.local))
    return bench.partition.split(state)[0]


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
    federation: Federation = Simulation(engine, members)
    if kept := kept_rounds(experiment.rounds, experiment.audit.transcript):
        federation = Recorded(federation, folder.path / TRANSCRIPT, kept)
    for one in rounds(federation, plan, standing, study.bench.partition.roles):
        standing, now = one.after, time.perf_counter()
        sums["bytes_up"] += one.bytes_up
        sums["bytes_down"] += one.bytes_down
        sums["seconds"] += now - clock
        folder.append(_line(one, now - clock))
        clock = now
        folder.save(standing, {name: (silo.local, silo.labels) for name, silo in members.items()}, sums)
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


def _keep(study: Study, folder: RunFolder, shared: State, name: str, outcome: Outcome) -> None:
    """What a silo would use: local.safetensors holds whatever differs from the shared tensors."""
    own = {
        key: tensor
        for key, tensor in outcome.state.items()
        if key not in shared or not torch.equal(tensor, shared[key])
    }
    labelled = settled(study.bench, study.trained(name))
    folder.save_tensors(f"silos/{name}/local.safetensors", own, labelled)
    folder.write_json(f"silos/{name}/validation.json", outcome.validation.figures)
    test = {"scores": outcome.scores, "y": outcome.y, "ids": outcome.ids}
    folder.save_tensors(f"silos/{name}/test.safetensors", test)
    folder.save_inputs(name, study.inputs(name), study.data(name).classes, study.survey.shape)


def _result(
    study: Study,
    folder: RunFolder,
    outcomes: Mapping[str, Outcome],
    onboarded: Mapping[str, Any],
    everybody: Mapping[str, SiloData],
    sums: Mapping[str, float],
) -> dict[str, Any]:
    experiment, metric = study.experiment, study.experiment.metric
    silos = {name: _of_silo(outcomes[name], everybody[name]) for name in sorted(outcomes)}
    tests = {name: outcome.test.figures for name, outcome in outcomes.items()}
    left_out: dict[str, list[str]] = {}
    for line in folder.history():
        for name, reason in line["left_out"].items():
            left_out.setdefault(name, []).append(f"round {line['round']}: {reason}")
    private = (
        {
            **claim(experiment.privacy),
            "not_released": list(EXACT),
            "silos": {name: spent(its, folder.path.name) for name, its in sorted(study.promises.items())},
        }
        if experiment.privacy
        else None
    )
    late = {silo: {row: one.plain() for row, one in rows.items()} for silo, rows in sorted(onboarded.items())}
    optional = {"late": late, "left_out": left_out, "privacy": private}
    return {
        "fedtl": fedtl.__version__,
        "method": experiment.method.name,
        "model": experiment.model.name,
        "task": experiment.data.task,
        "metric": metric,
        "seed": experiment.seed,
        "rounds": experiment.rounds,
        "silos": silos,
        **means(tests),
        "worst": worst_of(metric, tests),
        **{key: value for key, value in optional.items() if value},
        "notes": [
            *study.notes,
            *statistics_notes(experiment, study.bench, outcomes),
            *chain.from_iterable(map(warnings, study.promises.values())),
        ],
        "bytes_up": int(sums["bytes_up"]),
        "bytes_down": int(sums["bytes_down"]),
        "seconds": round(sums["seconds"], 3),
    }


def _of_silo(outcome: Outcome, data: SiloData) -> dict[str, Any]:
    """A silo's entry in result.json."""
    sizes = {"train": len(data.train), "val": len(data.val), "test": len(outcome.y)}
    others = {"target": outcome.target, "target_adabn": outcome.target_adabn, "refitted": outcome.refitted}
    found = sizes | outcome.test.plain() | {key: one.plain() for key, one in others.items() if one}
    distance = outcome.statistics_distance
    return found if distance is None else found | {"statistics_distance": distance}


def _privately(experiment: Experiment, plan: Blueprint, shape: tuple[int, ...]) -> Blueprint:
    plan = privately(plan)
    return with_input_scale(plan, shape) if experiment.data.scale == "dp" else plan


def _blueprint(experiment: Experiment, shape: tuple[int, ...]) -> Blueprint:
    model = experiment.model
    return blueprint(model.name, shape, experiment.seed, pretrained=model.weights == "pretrained")


def tensor_table(study: Study) -> list[dict[str, Any]]:
    """Every tensor of the model: name, role, shape, bytes, whether it leaves a silo; where private, its label."""
    width = len(study.survey.union) or 1
    partition = study.bench.partition
    planned = trained(study.bench, study.first, study.experiment.privacy)
    return [
        {
            "name": name,
            "role": str(partition.roles[name]),
            "shape": list(tensor.shape),
            "bytes": size_in_bytes({name: tensor}),
            "leaves": partition.leaves(name),
            **({"label": str(planned[name])} if study.experiment.privacy else {}),
        }
        for name, tensor in study.bench.net(width).state_dict().items()
    ]
