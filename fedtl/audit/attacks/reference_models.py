"""
Reference models for membership inference: the whole federation is trained again, on random halves of each silo's training
and test rows.

References k and k + 1 have complementary halves, so that exactly one of the two used each row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedtl._util.randomness import numpy_generator
from fedtl.audit import units
from fedtl.audit.attacks.membership import Bools, Evidence, Floats
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.experiment.config.resolve import limits_of, privacy_of
from fedtl.experiment.privacy_plan import LedgerLocation, plan_guarantee
from fedtl.experiment.server_step import server_step
from fedtl.experiment.study import Study
from fedtl.federation.recorder import RecordedRound, RecordingFederation, read_transcript, rounds_to_record
from fedtl.federation.rounds import Federation, FederationConfig, ServerState, run_rounds
from fedtl.messages import Task, Update
from fedtl.methods.wire import Encoding
from fedtl.models.roles import Role
from fedtl.models.state import State, add_scaled
from fedtl.privacy import taint
from fedtl.results.audit import Adversary
from fedtl.simulation import choose
from fedtl.simulation.engine import Fit, Job, Simulation, WorkerContext
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.training.at_home import received_model
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

MIN_PROBABILITY = 1e-12
TARGET = -1  # not a reference: a silo trains on its own training rows
# TARGET with mislabelled rows added: a coin flip for each record, or for each silo, decides which rows are planted.
RECORDS, SILOS = -2, -3
StatesBySilo = Mapping[str, State]  # each silo's whole model


@dataclass(frozen=True)
class ObservedFederation:
    """What can be observed of a federation: recorded messages, the final shared tensors, and each silo's whole model."""

    messages: Sequence[RecordedRound]
    shared: State
    whole: StatesBySilo


@dataclass(frozen=True)
class Pool:
    """
    The rows of a silo that are attacked, of which the first ``trained`` are training rows and the rest test rows, and
    a ``population`` of rows that were never trained on: its validation rows, if it has any.
    """

    rows: Dataset
    trained: int
    population: Dataset

    @property
    def member(self) -> Bools:
        return np.arange(len(self.rows)) < self.trained


def pool_of(study: Study, name: str) -> Pool:
    """The rows of a silo that are attacked; they have units if units are protected."""
    data, test = study.data(name), study.evaluation_set(name).test
    unit = units.unit_of(study.experiment)
    rows = Dataset(
        torch.cat([data.train.x, test.x]),
        torch.cat([data.train.y, test.y]),
        units.numbered([data.train, test], unit),
    )
    population = replace(data.val, units=units.numbered([data.val], unit)) if len(data.val) else rows
    return Pool(rows, len(data.train), population)


def half(study: Study, name: str, number: int) -> Bools:
    """Which rows of the silo's pool reference ``number`` trains on: those of half of the units."""
    rows = pool_of(study, name).rows
    count = units.count(rows.units, len(rows))
    order = numpy_generator("audit", "half", study.experiment.seed, number // 2, name).permutation(count)
    inside = np.zeros(count, bool)
    inside[order[: count // 2]] = True
    chosen = units.by_row(inside, rows.units)
    return chosen if number % 2 == 0 else ~chosen


def mislabelled_rows(study: Study, name: str, level: int) -> tuple[Dataset, Bools]:
    """
    Canaries in input space, and which of them are planted: test rows with another label than theirs. A model that assigns
    such a label to such a row was trained on it.
    """
    data, rows = study.data(name), study.evaluation_set(name).test
    rng = numpy_generator("audit", "planted", study.experiment.seed, level, name)
    if data.classes:
        shift = torch.from_numpy(rng.integers(1, max(data.width, 2), len(rows)))
        wrong = (rows.y + shift) % data.width
    else:
        wrong = rows.y + 3 * data.y_std * torch.from_numpy(rng.choice([-1.0, 1.0], len(rows))).to(rows.y)
    row_units = units.numbered([rows], units.unit_of(study.experiment))
    coins = units.by_row(rng.random(len(rows)) < 0.5, row_units)
    return Dataset(rows.x, wrong, row_units), coins if level == RECORDS else np.full(len(rows), coins[0])


def reference_data(study: Study, name: str, number: int) -> SiloDataset:
    """What a silo trains on in reference ``number``, or in TARGET, RECORDS or SILOS."""
    data = study.data(name)
    if number == TARGET:
        return data
    if number in (RECORDS, SILOS):
        rows, coins = mislabelled_rows(study, name, number)
        planted = _select(rows, torch.from_numpy(coins))
        both = Dataset(
            torch.cat([data.train.x, planted.x]),
            torch.cat([data.train.y, planted.y]),
            units.numbered([data.train, planted], units.unit_of(study.experiment)),
        )
        return replace(data, train=both, target=None)
    inside = torch.from_numpy(half(study, name, number))
    return replace(data, train=_select(pool_of(study, name).rows, inside), target=None)


def _select(rows: Dataset, inside: torch.Tensor) -> Dataset:
    """The rows in ``inside``, with units numbered from 0."""
    row_units = None if rows.units is None else units.renumbered(rows.units[inside])
    return Dataset(rows.x[inside], rows.y[inside], row_units)


def with_shared_roles(trainer: Trainer, shared: frozenset[Role]) -> Trainer:
    """The same trainer with other roles that leave the silo."""
    return replace(trainer, method=replace(trainer.method, shared=shared))


@dataclass(frozen=True)
class FitUnaccounted:
    """The job of one round in a private reference."""

    task: Task

    def __call__(self, trainer: Trainer, silo: Silo) -> Update:
        return trainer.fit_unaccounted(silo, self.task)


def train_reference(study: Study, number: int, transcript: int) -> ObservedFederation:
    """
    Train reference ``number`` as the target was trained, privately if it was private, within this process. Messages of
    ``transcript`` rounds are recorded.
    """
    experiment, trainer = study.experiment, study.trainer
    serial = experiment.engine.model_copy(update={"name": "serial"})
    with temporary_folder(memory_folder()) as folder:
        silos = {name: _reference_silo(study, name, number, folder) for name in study.training}
        with choose.make_engine(serial, trainer, _no_worker, len(silos)) as engine:
            job: Callable[[Task], Job] = Fit if experiment.privacy is None else FitUnaccounted
            federation: Federation = Simulation(engine, silos, job)
            federation = RecordingFederation(
                federation, folder / "seen", rounds_to_record(experiment.rounds, transcript)
            )
            per_round = None if experiment.silos_per_round == "all" else int(experiment.silos_per_round)
            plan = FederationConfig(
                *(f"reference {number}", experiment.seed, experiment.rounds),
                *(server_step(study), per_round),
                wire=study.method.wire,
                limits=limits_of(experiment.updates),
            )
            width = next(iter(silos.values())).data.width
            state = ServerState(0, trainer.partition.split(trainer.initial(width))[0])
            for finished in run_rounds(federation, plan, state, trainer.partition.roles):
                state = finished.after
        messages = read_transcript(folder / "seen")
    task = Task("reference", experiment.rounds + 1, experiment.rounds, experiment.seed, state.shared)
    whole = {name: received_model(trainer, silo, task) for name, silo in silos.items()}
    return ObservedFederation(messages, state.shared, whole)


def _no_worker() -> WorkerContext:
    raise AssertionError("a reference is trained within one process")


def _reference_silo(study: Study, name: str, number: int, folder: Path) -> Silo:
    data, experiment = reference_data(study, name, number), study.experiment
    _, local = study.trainer.partition.split(study.trainer.initial(data.width))
    secret, promised = study.secret(f"{number}.{name}"), None
    if experiment.privacy is not None:
        settings = privacy_of(experiment, name)
        if settings.statistics == "auto":
            settings = settings.model_copy(update={"statistics": "public"})
        location = LedgerLocation(folder / name / "ledger.sqlite", name, secret)
        promised = plan_guarantee(settings, study.trainer, data, experiment.rounds, experiment.seed, location)
    return Silo(name, data, local, secret, promised, taint.untrained_labels(study.trainer.partition.roles))


def observed_states(
    observed: ObservedFederation, name: str, adversary: Adversary, substitute: State, encoding: Encoding
) -> list[State]:
    """
    The models of a silo that an adversary knows; empty if it saw none. The server: one after each recorded update of the
    silo. Another silo: one for each recorded round's shared tensors. The public: the final model. Tensors that do not
    leave a silo are taken from ``substitute``, a model of the adversary's own. ``encoding``: how updates were sent.
    """
    if adversary is Adversary.MODEL:
        return [dict(observed.whole[name])]
    if adversary is Adversary.SILO:
        received = [message.shared for message in observed.messages[1:]] + [observed.shared]
        return [substitute | shared for shared in received]
    return [
        substitute | add_scaled(message.shared, encoding.decode(message.deltas[name], message.shared))
        for message in observed.messages
        if name in message.deltas
    ]


def log_odds(study: Study, states: Sequence[State], rows: Dataset, data: SiloDataset) -> Floats:
    """The log-odds of the right label [N], a mean over states; in regression those of exp(-squared error / 2)."""
    values = []
    for state in states:
        scores = study.trainer.scores(state, rows.x, data).double()
        if data.classes:
            log = scores.log_softmax(1)[torch.arange(len(rows)), rows.y]
        else:
            log = -(((scores[:, 0] - rows.y) / data.y_std) ** 2) / 2
        rest = (-torch.expm1(log)).clamp_min(MIN_PROBABILITY).log()
        values.append((log.clamp_min(np.log(MIN_PROBABILITY)) - rest).numpy())
    return np.asarray(np.mean(values, axis=0))


@dataclass(frozen=True)
class SiloLogOdds:
    """Log-odds of the right label for the rows of one silo's pool, and for its population."""

    rows: Floats
    population: Floats


def pool_log_odds(
    study: Study, observed: ObservedFederation, adversary: Adversary, substitutes: StatesBySilo
) -> dict[str, SiloLogOdds]:
    """The log-odds by silo, for silos of which the adversary saw anything."""
    results = {}
    for name in study.training:
        encoding = study.trainer.encoding
        if states := observed_states(observed, name, adversary, substitutes[name], encoding):
            pool = pool_of(study, name)
            both = Dataset(
                torch.cat([pool.rows.x, pool.population.x]), torch.cat([pool.rows.y, pool.population.y])
            )
            values = log_odds(study, states, both, study.data(name))
            results[name] = SiloLogOdds(values[: len(pool.rows)], values[len(pool.rows) :])
    return results


def evidence(
    study: Study, target: Mapping[str, SiloLogOdds], references: Mapping[int, Mapping[str, SiloLogOdds]]
) -> dict[str, Evidence]:
    """All that a membership attack needs, by silo; without silos of which the adversary saw nothing."""
    return {
        name: _evidence(study, name, target[name], references) for name in study.training if name in target
    }


def _evidence(
    study: Study, name: str, target: SiloLogOdds, references: Mapping[int, Mapping[str, SiloLogOdds]]
) -> Evidence:
    own = {number: silos[name] for number, silos in references.items() if name in silos}
    pool = pool_of(study, name)
    row_units, population_units = pool.rows.units, pool.population.units
    held = np.stack([half(study, name, number) for number in own])
    return Evidence(
        member=units.by_unit(pool.member, row_units) > 0,
        target=units.by_unit(target.rows, row_units),
        references=units.by_unit(np.stack([odds.rows for odds in own.values()]), row_units),
        held=units.by_unit(held, row_units) > 0,
        population=units.by_unit(target.population, population_units),
        population_references=units.by_unit(
            np.stack([odds.population for odds in own.values()]), population_units
        ),
    )


def reference_log_odds(
    study: Study, number: int, transcript: int, adversary: Adversary, substitutes: StatesBySilo
) -> dict[str, SiloLogOdds]:
    """Train a reference, and return only what the attack needs of it."""
    return pool_log_odds(study, train_reference(study, number, transcript), adversary, substitutes)
