"""
Figures that a page shows in addition to the result, made from what the runs stored: answers to test rows, and settings.

None under ``[privacy]``: a page of a private run has no more exact figures than its result.
"""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

import fedtl
from fedtl.errors import FedTLError
from fedtl.experiment.config.resolve import silo_model
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.guarantees import LEDGER
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.run_trainer import run_trainer
from fedtl.experiment.scores import by_seed, read_answers
from fedtl.experiment.summary import LOCAL
from fedtl.experiment.uncertainty import Measurement, measure
from fedtl.experiment.verdicts import gains_of
from fedtl.models.state import size_in_bytes
from fedtl.privacy.ledger_lines import RoundCharged
from fedtl.privacy.ledger_reading import read_ledgers
from fedtl.results.comparison import Comparison
from fedtl.results.page_facts import (
    CalibrationBin,
    ClassRecall,
    ComparisonFacts,
    Origin,
    RowCounts,
    RunFacts,
    SiloAnswers,
)
from fedtl.results.run import RunResult
from fedtl.tasks.label_metrics import BINS, probabilities
from fedtl.tasks.row_metrics import Answers

LIBRARIES = ("torch", "numpy", "scikit-learn", "flwr")
MAX_CLASSES = 20  # of a confusion matrix that can be read


def run_facts(folder: RunFolder, experiment: Experiment, result: RunResult) -> RunFacts:
    """Return the facts of a finished run."""
    answers = {}
    if _has_answers(experiment):
        answers = {
            name: own for name in result.silos if (own := _silo_answers(folder, experiment, name)) is not None
        }
    return RunFacts(
        _origin("run"), _sent_by_role(folder, next(iter(result.silos), "")), answers, _costs(folder, result)
    )


def comparison_facts(
    folders: Mapping[str, Sequence[RunFolder]], experiment: Experiment, comparison: Comparison
) -> ComparisonFacts:
    """Return the facts of a finished comparison. ``folders``: the runs of each column."""
    best = {own.best: silo for silo, own in comparison.benefit.items()}
    sent = {label: _sent_by_role(folders[label][0], silo) for label, silo in best.items() if label in folders}
    first = next(iter(folders.get(LOCAL, ()) or next(iter(folders.values())))).result()
    rows = {name: RowCounts(silo.train, silo.val, silo.test) for name, silo in first.silos.items()}
    recall = _recall(folders, experiment, comparison) if _has_answers(experiment) else {}
    return ComparisonFacts(_origin("compare"), rows, sent, recall, _one_run(folders, [*best, LOCAL]))


def _one_run(folders: Mapping[str, Sequence[RunFolder]], labels: Sequence[str]) -> str:
    """Return the folder of the first run of the first of these columns that was trained; "" where none was."""
    runs = (folders[label][0].path for label in labels if folders.get(label))
    return next(("/".join(path.parts[-2:]) for path in runs), "")


def _origin(command: str) -> Origin:
    made_with = {"fedtl": fedtl.__version__, "Python": platform.python_version()}
    made_with |= {name: version(name) for name in LIBRARIES}
    return Origin(f"fedtl {command} experiment.toml --out repeated", made_with)


def _sent_by_role(folder: RunFolder, silo: str) -> dict[str, int]:
    """
    Return the bytes that leave a silo in each round, by role. {} where they do not add up to what was counted in the run, as where silos
    were left out or joined late, and where the model cannot be built again.
    """
    experiment, result = folder.experiment(), folder.result()
    if experiment.method.is_absent or not silo or not (folder.silo(silo) / "inputs.json").is_file():
        return {}
    _, classes, shape = folder.inputs(silo)
    try:
        trainer = run_trainer(experiment, shape, model=silo_model(experiment, silo))
    except FedTLError:
        return {}
    sent: Counter[str] = Counter()
    for name, tensor in trainer.initial(experiment.data.predicted.width(classes)).items():
        if trainer.partition.leaves(name):
            sent[str(trainer.partition.roles[name])] += size_in_bytes({name: tensor})
    counted = result.bytes_up == sent.total() * len(result.silos) * len(folder.history())
    return dict(sent) if counted else {}


def _costs(folder: RunFolder, result: RunResult) -> dict[str, dict[int, float]]:
    """Return by silo and round the epsilon that its rounds have cost so far. Raises LedgerDamaged."""
    costs: dict[str, dict[int, float]] = {}
    for silo in result.silos:
        if not (path := folder.silo(silo) / LEDGER).is_file():
            continue
        for lines in read_ledgers(path).values():
            entries = [line.entry for line in lines]
            costs[silo] = {one.round: one.epsilon for one in entries if isinstance(one, RoundCharged)}
    return costs


def _has_answers(experiment: Experiment) -> bool:
    task = experiment.data.predicted
    return experiment.privacy is None and task.has_classes and task.exclusive


def _classes(folder: RunFolder, silo: str, answers: Answers) -> tuple[str, ...]:
    """Return the names of the classes of a silo's model; () where they are too many to show, or the file is not there."""
    if not (folder.silo(silo) / "inputs.json").is_file():
        return ()
    classes = folder.inputs(silo)[1]
    return classes if len(classes) == answers.scores.shape[1] and len(classes) <= MAX_CLASSES else ()


def _stored(folder: RunFolder, experiment: Experiment, silo: str) -> Answers | None:
    """Return the answers to a silo's test rows; None without rows, or with scores that are not finite."""
    if not folder.has(f"silos/{silo}/test.safetensors"):
        return None
    answers = read_answers(folder, silo, experiment.data.predicted)
    return answers if len(answers.y) and np.isfinite(answers.scores).all() else None


def _silo_answers(folder: RunFolder, experiment: Experiment, silo: str) -> SiloAnswers | None:
    answers = _stored(folder, experiment, silo)
    if answers is None or not (classes := _classes(folder, silo, answers)):
        return None
    counts = confusion_matrix(answers.y, answers.chosen, labels=range(len(classes)))
    recall = tuple(
        binomtest(int(own[at]), int(own.sum())).proportion_ci(method="wilson") if own.any() else None
        for at, own in enumerate(counts)
    )
    ends = tuple((float(one.low), float(one.high)) if one else None for one in recall)
    return SiloAnswers(classes, tuple(map(tuple, counts.tolist())), _calibration(answers), ends)


def _calibration(answers: Answers) -> tuple[CalibrationBin, ...]:
    """Return the bins of the calibration error, as ``label_metrics.calibration_error`` has them."""
    sure, right = probabilities(answers.scores).max(1), answers.chosen == answers.y
    which = np.ceil(sure * BINS).clip(1, BINS).astype(int)
    return tuple(
        CalibrationBin(int(inside.sum()), float(sure[inside].mean()), float(right[inside].mean()))
        for number in range(1, BINS + 1)
        if (inside := which == number).any()
    )


def _recall(
    folders: Mapping[str, Sequence[RunFolder]], experiment: Experiment, comparison: Comparison
) -> dict[str, dict[str, ClassRecall]]:
    """Return by silo and class the share of test rows that are recognised, over all runs, alone and by the silo's best method."""
    recall: dict[str, dict[str, ClassRecall]] = {}
    differences: dict[tuple[str, str], Measurement] = {}
    folds = experiment.compare.folds
    for silo, benefit in comparison.benefit.items():
        pairs = [
            [_stored(run, experiment, silo) for run in folders.get(label, ())]
            for label in (LOCAL, benefit.best)
        ]
        alone, best = ([one for one in runs if one is not None] for runs in pairs)
        if not alone or len(alone) != len(best):
            continue
        classes = _classes(folders[LOCAL][0], silo, alone[0])
        if any(one.scores.shape[1] != len(classes) for one in (*alone, *best)):
            continue
        of_local, of_best = by_seed(alone, folds), by_seed(best, folds)
        for number, name in enumerate(classes):
            mine, its = ([_of_class(one, number) for one in seeds] for seeds in (of_local, of_best))
            if not (rows := sum(len(one.y) for one in mine)):
                continue
            known = [sum(int((one.chosen == number).sum()) for one in own) for own in (mine, its)]
            recall.setdefault(silo, {})[name] = ClassRecall(rows, known[0] / rows, known[1] / rows)
            if all(len(one.y) for one in (*mine, *its)):
                differences[silo, name] = measure("accuracy", its, silo).minus(
                    measure("accuracy", mine, silo)
                )
    gains = gains_of(differences, dict.fromkeys(differences, experiment.compare.margin))
    return {
        silo: {name: replace(one, gain=gains.get((silo, name))) for name, one in own.items()}
        for silo, own in recall.items()
    }


def _of_class(answers: Answers, number: int) -> Answers:
    """Return the answers to the rows of one class; their accuracy is its recall."""
    kept = answers.y == number
    parts = {
        name: getattr(answers, name)[kept]
        for name in ("scores", "y", "ids", "units", "models")
        if len(getattr(answers, name))
    }
    return replace(answers, **parts, kept={})
