"""What a run leaves: a line of history each round, the files of each silo, and ``result.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

import torch

import fedtl
from fedtl.data.dataset import SiloDataset
from fedtl.experiment.notes import statistics_notes
from fedtl.experiment.privacy_plan import privacy_report, settled, spent, warnings
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.rounds import Round
from fedtl.models.state import State
from fedtl.results.metrics import Measured
from fedtl.results.privacy import PrivacyReport
from fedtl.results.run import HistoryLine, RunResult, SiloResult
from fedtl.training.finish import Outcome
from fedtl.training.metrics import means, worst_of

EXACT = ("silos", "mean", "worst", "late")  # keys of result.json that hold metrics on test rows


@dataclass(frozen=True)
class Totals:
    """Bytes that left all silos, bytes that came in, and seconds, over all rounds."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0

    def plus(self, line: HistoryLine) -> "Totals":
        return Totals(
            self.bytes_up + line.bytes_up, self.bytes_down + line.bytes_down, self.seconds + line.seconds
        )


def history_line(one: Round, seconds: float) -> HistoryLine:
    metrics = {name: dict(reply.metrics) for name, reply in one.replies.items()}
    return HistoryLine(
        one.after.round, round(seconds, 3), metrics, dict(one.left_out), one.bytes_up, one.bytes_down
    )


def save_outcome(study: Study, folder: RunFolder, shared: State, name: str, outcome: Outcome) -> None:
    """Write what a silo would use; ``local.safetensors`` holds the tensors that differ from the shared ones."""
    own = {
        key: tensor
        for key, tensor in outcome.state.items()
        if key not in shared or not torch.equal(tensor, shared[key])
    }
    labelled = settled(study.trainer, study.trained(name))
    folder.save_tensors(f"silos/{name}/local.safetensors", own, labelled)
    folder.write_json(f"silos/{name}/validation.json", outcome.validation.figures)
    test = {"scores": outcome.scores, "y": outcome.y, "ids": outcome.ids}
    folder.save_tensors(f"silos/{name}/test.safetensors", test)
    folder.save_inputs(name, study.inputs(name), study.data(name).classes, study.schema.shape)


def run_result(
    study: Study,
    folder: RunFolder,
    outcomes: Mapping[str, Outcome],
    late: Mapping[str, Mapping[str, Measured]],
    data: Mapping[str, SiloDataset],
    totals: Totals,
    machine: tuple[str, int],
) -> RunResult:
    """
    Return what ``result.json`` holds. ``outcomes``: of the silos that trained; ``late``: of those that joined afterwards;
    ``machine``: the device, and the number of processes at once.
    """
    experiment = study.experiment
    tests = {name: outcome.test.figures for name, outcome in outcomes.items()}
    mean, counts = means(tests)
    device, workers = machine
    return RunResult(
        fedtl=fedtl.__version__,
        method=experiment.method.name,
        model=experiment.model.name,
        task=experiment.data.task,
        metric=experiment.metric,
        seed=experiment.seed,
        rounds=experiment.rounds,
        silos={name: _silo_result(outcomes[name], data[name]) for name in sorted(outcomes)},
        mean=mean,
        mean_silos=counts,
        worst=worst_of(experiment.metric, tests),
        late=dict(sorted(late.items())),
        left_out=_left_out(folder),
        privacy=_privacy(study, folder),
        notes=(
            *study.notes,
            *statistics_notes(experiment, study.trainer, outcomes),
            *chain.from_iterable(map(warnings, study.guarantees.values())),
        ),
        bytes_up=totals.bytes_up,
        bytes_down=totals.bytes_down,
        seconds=round(totals.seconds, 3),
        device=device,
        workers=workers,
    )


def _silo_result(outcome: Outcome, data: SiloDataset) -> SiloResult:
    return SiloResult(
        train=len(data.train),
        val=len(data.val),
        test=len(outcome.y),
        measured=outcome.test,
        target=outcome.target,
        target_adabn=outcome.target_adabn,
        refitted=outcome.refitted,
        statistics_distance=outcome.statistics_distance,
    )


def _left_out(folder: RunFolder) -> dict[str, tuple[str, ...]]:
    """Return by silo the rounds in which it did not count, and why."""
    reasons: dict[str, list[str]] = {}
    for line in folder.history():
        for name, reason in line.left_out.items():
            reasons.setdefault(name, []).append(f"round {line.round}: {reason}")
    return {name: tuple(own) for name, own in reasons.items()}


def _privacy(study: Study, folder: RunFolder) -> PrivacyReport | None:
    if study.experiment.privacy is None:
        return None
    silos = {name: spent(its, folder.path.name) for name, its in sorted(study.guarantees.items())}
    return replace(privacy_report(study.experiment.privacy), not_released=EXACT, silos=silos)
