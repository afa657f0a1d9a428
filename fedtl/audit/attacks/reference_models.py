"""
Reference models for membership inference: the whole federation again, on random halves of each silo's rows and of rows
that it never trained on; and what a vantage sees of a federation, target or reference.

References k and k + 1 have complementary halves, so that a row is out of as many as it is in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedtl._util.randomness import numpy_generator
from fedtl.audit import units
from fedtl.audit.attacks.membership import Evidence, sums
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.experiment.config.resolve import privacy_of, server_of
from fedtl.experiment.privacy_plan import LedgerLocation, guarantee
from fedtl.experiment.study import Study
from fedtl.federation.recorder import RecordedRound, RecordingFederation, read_transcript, rounds_to_record
from fedtl.federation.rounds import Federation, FederationConfig, ServerState, run_rounds
from fedtl.messages import Task, Update
from fedtl.models.roles import Role
from fedtl.models.state import State, add_scaled
from fedtl.privacy import taint as labels
from fedtl.simulation import choose
from fedtl.simulation.engine import Fit, Job, Simulation, WorkerContext
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LEAST = 1e-12
TARGET = -1  # no reference: the silo's own training rows
RECORDS, SILOS = -2, -3  # the same with mislabelled rows among them, by a coin for each row or for each silo


@dataclass(frozen=True)
class Watched:
    """One federation as it can be looked at: some rounds' messages, what it ended with, and each silo's own whole state."""

    seen: Sequence[RecordedRound]
    shared: State
    whole: Mapping[str, State]


@dataclass(frozen=True)
class Pool:
    """All rows of a silo that the attack is about, the trained ones first, and rows of nobody's: its validation rows."""

    rows: Dataset
    trained: int
    population: Dataset

    @property
    def member(self) -> Bools:
        return np.arange(len(self.rows)) < self.trained


def pool_of(study: Study, name: str) -> Pool:
    """Its rows have units where units are what is protected, and none where records are."""
    data, exam = study.data(name), study.exam(name)
    unit = units.unit_of(study.experiment)
    rows = Dataset(
        torch.cat([data.train.x, exam.test.x]),
        torch.cat([data.train.y, exam.test.y]),
        units.numbered([data.train, exam.test], unit),
    )
    return Pool(rows, len(data.train), replace(data.val, units=units.numbered([data.val], unit)))


def half(study: Study, name: str, number: int) -> Bools:
    """
    Which rows of the silo's pool reference ``number`` trains on, those of half of the units; at least one in two is out of
    each pair.
    """
    rows = pool_of(study, name).rows
    count = units.count(rows.units, len(rows))
    drawn = numpy_generator("audit", "half", study.experiment.seed, number // 2, name).permutation(count)
    inside = np.zeros(count, bool)
    inside[drawn[: count // 2]] = True
    chosen = units.coins(rows.units, len(rows), inside)
    return chosen if number % 2 == 0 else ~chosen


def planted(study: Study, name: str, level: int) -> tuple[Dataset, Bools]:
    """
    Canaries of a silo that look real, and which of them are in: rows that it never trained on, with another label than
    theirs. A model that gives such a row such a label has seen it.
    """
    data, rows = study.data(name), study.exam(name).test
    rng = numpy_generator("audit", "planted", study.experiment.seed, level, name)
    if data.classes:
        moved = torch.from_numpy(rng.integers(1, max(data.width, 2), len(rows)))
        labels = (rows.y + moved) % data.width
    else:
        labels = rows.y + 3 * data.y_std * torch.from_numpy(rng.choice([-1.0, 1.0], len(rows))).to(rows.y)
    whose = units.numbered([rows], units.unit_of(study.experiment))
    coins = units.coins(whose, len(rows), rng.random(len(rows)) < 0.5)
    return Dataset(rows.x, labels, whose), coins if level == RECORDS else np.full(len(rows), coins[0])


def half_data(study: Study, name: str, number: int) -> SiloDataset:
    """What reference ``number`` trains on; TARGET, RECORDS and SILOS: what the silo itself does, with what was planted."""
    if number == TARGET:
        return study.data(name)
    if number in (RECORDS, SILOS):
        rows, coins = planted(study, name, number)
        data, inside = study.data(name), torch.from_numpy(coins)
        added = taken(rows, inside)
        both = Dataset(
            torch.cat([data.train.x, added.x]),
            torch.cat([data.train.y, added.y]),
            units.numbered([data.train, added], units.unit_of(study.experiment)),
        )
        return replace(data, train=both, target=None)
    inside = torch.from_numpy(half(study, name, number))
    return replace(study.data(name), train=taken(pool_of(study, name).rows, inside), target=None)


def taken(rows: Dataset, inside: torch.Tensor) -> Dataset:
    """Some of the rows, whose units are numbered anew."""
    whose = None if rows.units is None else units.renumbered(rows.units[inside])
    return Dataset(rows.x[inside], rows.y[inside], whose)


def sharing(trainer: Trainer, shared: frozenset[Role]) -> Trainer:
    """The same bench, where other roles leave a silo."""
    return replace(trainer, method=replace(trainer.method, shared=shared))


@dataclass(frozen=True)
class Imitate:
    """The job of a round in a private reference."""

    task: Task

    def __call__(self, trainer: Trainer, silo: Silo) -> Update:
        return trainer.fit_unaccounted(silo, self.task)


StudyOf = Callable[
    [Trainer], Study
]  # ``study.source.study``: a study in whichever process, of the bench that is there


def reference(study: Study, number: int, transcript: int) -> Watched:
    """Train reference ``number`` as the target was trained, private where it was private; all of it here."""
    experiment = study.experiment
    alone = experiment.engine.model_copy(update={"name": "serial"})
    with temporary_folder(memory_folder()) as folder:
        members = {name: _silo(study, name, number, folder) for name in study.training}
        with choose.make_engine(alone, study.trainer, _elsewhere, len(members)) as engine:
            job: Callable[[Task], Job] = Fit if experiment.privacy is None else Imitate
            federation: Federation = Simulation(engine, members, job)
            federation = RecordingFederation(
                federation, folder / "seen", rounds_to_record(experiment.rounds, transcript)
            )
            per_round = None if experiment.silos_per_round == "all" else int(experiment.silos_per_round)
            server = server_of(experiment.method)
            plan = FederationConfig(
                f"reference {number}", experiment.seed, experiment.rounds, server, per_round
            )
            width = next(iter(members.values())).data.width
            shared, _ = study.trainer.partition.split(study.trainer.initial(width))
            standing = ServerState(0, shared)
            for one in run_rounds(federation, plan, standing, study.trainer.partition.roles):
                standing = one.after
        seen = read_transcript(folder / "seen")
    task = Task("reference", experiment.rounds + 1, experiment.rounds, experiment.seed, standing.shared)
    whole = {name: study.trainer.finish(silo, task) for name, silo in members.items()}
    return Watched(seen, standing.shared, whole)


def _elsewhere() -> WorkerContext:
    raise AssertionError("a reference is trained where it was begun")


def _silo(study: Study, name: str, number: int, folder: Path) -> Silo:
    data = half_data(study, name, number)
    _, local = study.trainer.partition.split(study.trainer.initial(data.width))
    its, secret = None, study.secret(f"{number}.{name}")
    if study.experiment.privacy is not None:
        settings = privacy_of(study.experiment, name)
        if settings.statistics == "auto":
            settings = settings.model_copy(update={"statistics": "public"})
        place = LedgerLocation(folder / name / "ledger.sqlite", name, secret)
        its = guarantee(settings, study.trainer, data, study.experiment.rounds, study.experiment.seed, place)
    return Silo(name, data, local, secret, its, labels.public(study.trainer.partition.roles))


def states(study: Study, watched: Watched, name: str, vantage: str, guess: State) -> list[State]:
    """
    What a vantage knows of a silo's model. The server: every kept round's update of it. Another silo: every kept
    round's shared tensors. The public: the final model. What does not cross is filled in from ``guess``, a state of
    the attacker's own.
    """
    if vantage == "model":
        return [dict(watched.whole[name])]
    if vantage == "silo":
        received = [one.shared for one in watched.seen[1:]] + [watched.shared]
        return [guess | shared for shared in received]
    return [guess | add_scaled(one.shared, one.deltas[name]) for one in watched.seen if name in one.deltas]


def odds(study: Study, its: Sequence[State], rows: Dataset, data: SiloDataset) -> Floats:
    """[N]: the log-odds of the right label, a mean over the states; in regression of exp(-squared error / 2)."""
    found = []
    for state in its:
        scores = study.trainer.scores(state, rows.x, data).double()
        if data.classes:
            log = scores.log_softmax(1)[torch.arange(len(rows)), rows.y]
        else:
            log = -(((scores[:, 0] - rows.y) / data.y_std) ** 2) / 2
        rest = (-torch.expm1(log)).clamp_min(LEAST).log()
        found.append((log.clamp_min(np.log(LEAST)) - rest).numpy())
    return sums(found)


@dataclass(frozen=True)
class Look:
    """What a vantage makes of one silo's pool in one federation: log-odds of all rows, and of rows of nobody's."""

    rows: Floats
    population: Floats


Guess = Mapping[str, State]  # each silo's whole state in a federation of the attacker's own


def looks(study: Study, watched: Watched, vantage: str, guess: Guess) -> dict[str, Look]:
    """By silo; without those of which the vantage saw nothing."""
    found = {}
    for name in study.training:
        if its := states(study, watched, name, vantage, guess[name]):
            pool = pool_of(study, name)
            people = pool.population if len(pool.population) else pool.rows
            both = Dataset(torch.cat([pool.rows.x, people.x]), torch.cat([pool.rows.y, people.y]))
            values = odds(study, its, both, study.data(name))
            found[name] = Look(values[: len(pool.rows)], values[len(pool.rows) :])
    return found


def evidence(
    study: Study, name: str, target: Mapping[str, Look], references: Mapping[int, Mapping[str, Look]]
) -> Evidence | None:
    """Everything that an attack on one silo needs; None where the vantage saw nothing of it."""
    if name not in target:
        return None
    kept = {number: its[name] for number, its in references.items() if name in its}
    pool = pool_of(study, name)
    people = pool.population if len(pool.population) else pool.rows
    whose, theirs = pool.rows.units, people.units
    held = np.stack([half(study, name, number) for number in kept])
    return Evidence(
        member=units.by_unit(pool.member, whose) > 0,
        target=units.by_unit(target[name].rows, whose),
        references=units.by_unit(np.stack([its.rows for its in kept.values()]), whose),
        held=units.by_unit(held, whose) > 0,
        population=units.by_unit(target[name].population, theirs),
        others=units.by_unit(np.stack([its.population for its in kept.values()]), theirs),
    )


def watched(of: StudyOf, number: int, transcript: int, trainer: Trainer) -> Watched:
    """``reference`` as a piece of work."""
    return reference(of(trainer), number, transcript)


def looked(
    of: StudyOf, number: int, transcript: int, vantage: str, guess: Guess, trainer: Trainer
) -> dict[str, Look]:
    """``reference`` as a piece of work, and of it only what the attack looks at."""
    study = of(trainer)
    return looks(study, reference(study, number, transcript), vantage, guess)
