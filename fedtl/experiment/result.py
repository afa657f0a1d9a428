"""What a run writes: a line of history each round, the files of each silo, and ``result.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import fedtl
from fedtl.data.dataset import SiloDataset
from fedtl.data.labels import has_label
from fedtl.experiment.doubtful_labels import doubt_notes, save_doubts
from fedtl.experiment.final_models import mix_of, save_final_model
from fedtl.experiment.label_free_choice import Unlabelled, save_unlabelled
from fedtl.experiment.notes import statistics_notes
from fedtl.experiment.privacy_report import privacy_report, privacy_warnings, spent_privacy
from fedtl.experiment.provenance import provenance_after_finish, silo_provenance
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.round_log import left_out_reasons
from fedtl.models.folder_files import shown_name
from fedtl.models.state import State
from fedtl.results.metrics import Measured
from fedtl.results.privacy import PrivacyReport
from fedtl.results.run import HistoryLine, RunResult, SiloResult
from fedtl.training.finish import Outcome
from fedtl.training.metrics import means, worst_of
from fedtl.training.trainer import trainer_at

EXACT = ("silos", "mean", "worst", "late")  # keys of result.json that hold metrics on test rows


@dataclass(frozen=True)
class Totals:
    """Bytes that left all silos (in full: without compression), bytes that came in, and seconds, over all rounds."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    bytes_full: int = 0

    def plus(self, line: HistoryLine) -> "Totals":
        return Totals(
            self.bytes_up + line.bytes_up,
            self.bytes_down + line.bytes_down,
            self.seconds + line.seconds,
            self.bytes_full + line.bytes_full,
        )


def save_outcome(study: Study, folder: RunFolder, shared: State, name: str, outcome: Outcome) -> None:
    """Write what a silo would use."""
    labels = provenance_after_finish(trainer_at(study.trainer, name), silo_provenance(study, name))
    save_final_model(folder, name, outcome.model, shared, labels)
    folder.write_json(f"silos/{name}/validation.json", outcome.validation.figures)
    if outcome.doubts is not None:
        save_doubts(study, folder, name, outcome.doubts)
    if outcome.unlabelled is not None:
        rows = study.silo_data.unlabelled_row_numbers(name)
        save_unlabelled(folder, name, Unlabelled(outcome.unlabelled, rows))
    test = {"scores": outcome.scores, "y": outcome.y, "ids": outcome.ids}
    if (units := study.evaluation_set(name).units) is not None:
        test["units"] = units
    folder.save_tensors(f"silos/{name}/test.safetensors", test)
    folder.save_inputs(name, study.silo_data.inputs(name), study.data(name).classes, study.schema.shape)


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
        model=shown_name(experiment.model.name),
        task=experiment.data.task,
        metric=experiment.metric,
        seed=experiment.seed,
        rounds=experiment.rounds,
        silos={name: _silo_result(outcomes[name], data[name]) for name in sorted(outcomes)},
        mean=mean,
        mean_silos=counts,
        worst=worst_of(experiment.metric, tests),
        late=dict(sorted(late.items())),
        left_out=left_out_reasons(folder.history()),
        privacy=_privacy(study, folder),
        notes=(
            *study.notes,
            *statistics_notes(experiment, study.trainer, outcomes),
            *doubt_notes(outcomes),
            *privacy_warnings(study.guarantees.values()),
        ),
        bytes_up=totals.bytes_up,
        bytes_down=totals.bytes_down,
        bytes_full=totals.bytes_full,
        wire=study.method.wire.dtype,
        seconds=round(totals.seconds, 3),
        device=device,
        workers=workers,
        fingerprints=_fingerprints(study),
        files=study.files,
    )


def _fingerprints(study: Study) -> dict[str, str]:
    """Return the fingerprints of the rows of silos that train or come late; {} under privacy, because they are exact."""
    if study.experiment.privacy is not None:
        return {}
    names = sorted((*study.training, *study.experiment.data.late))
    return {name: study.silo_data.fingerprint(name) for name in names}


def _silo_result(outcome: Outcome, data: SiloDataset) -> SiloResult:
    return SiloResult(
        train=len(data.train),
        val=int(has_label(data.val).sum()) if data.hidden else len(data.val),
        test=len(outcome.y),
        measured=outcome.test,
        mix=mix_of(outcome.model),
        received=outcome.received,
        target=outcome.target,
        target_adabn=outcome.target_adabn,
        refitted=outcome.refitted,
        statistics_distance=outcome.statistics_distance,
        unlabelled=data.hidden or None,
        doubtful_labels=None if outcome.doubts is None else outcome.doubts.share,
        interpolated=outcome.model.interpolated,
    )


def _privacy(study: Study, folder: RunFolder) -> PrivacyReport | None:
    if study.experiment.privacy is None:
        return None
    silos = {
        name: spent_privacy(guarantee, folder.path.name)
        for name, guarantee in sorted(study.guarantees.items())
    }
    return replace(privacy_report(study.experiment.privacy), not_released=EXACT, silos=silos)
