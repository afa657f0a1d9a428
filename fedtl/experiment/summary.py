"""What the runs of a comparison say: per silo the means, their intervals, and whether joining helped."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import fedtl
from fedtl.experiment.bootstrap import Answers, Resampling, gain, interval, verdict
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.notes import AS_LEFT, FAR, LOCAL_AFTER
from fedtl.experiment.run_folder import RunFolder
from fedtl.report.figures import Curve
from fedtl.training.metrics import CLASSIFICATION, REGRESSION, better, worst_of

VALIDATION, RELEASED = "validation rows", "released accuracy"  # what a best method may be chosen on
LOCAL, POOLED, PROBE = "local", "pooled", "probe"
YARDSTICKS = (LOCAL, PROBE, POOLED)  # not methods of joining: never "best"

FAR_AWAY = (  # whether the statistics are shared
    f"running averages of training are more than {FAR} standard deviations from the exact statistics of the silo's "
    "training inputs, which the figures are of",
    f"shared statistics are more than {FAR} standard deviations from the exact ones of the silo's training inputs; "
    '"refitted" says what these would give',
)

Figures = Mapping[str, float]


def summary(experiment: Experiment, folders: Mapping[str, Sequence[RunFolder]]) -> dict[str, Any]:
    """
    What the runs say, with intervals and verdicts; no time in it, so it repeats to the byte.

    ``folders``: per column of the comparison, one finished run a seed, in the order of ``compare.seeds``.
    """
    metric, task = experiment.metric, experiment.data.task
    results = {label: [one.read_json("result.json") for one in ones] for label, ones in folders.items()}
    silos = sorted({name for ones in results.values() for one in ones for name in one["silos"]})
    table: dict[str, dict[str, Any]] = {label: {} for label in folders}
    spread: dict[str, dict[str, dict[str, np.ndarray]]] = {label: {} for label in folders}
    absent: dict[str, dict[str, dict[str, str]]] = {}
    for silo in silos:
        answers = {
            label: [_answers(one, silo) for one in ones]
            for label, ones in folders.items()
            if silo in results[label][0]["silos"]
        }
        resampling = Resampling.draw(next(iter(answers.values())), silo)
        for label, runs in answers.items():
            spread[label][silo], table[label][silo] = {}, {}
            for name in REGRESSION if task == "regression" else CLASSIFICATION:
                values = [one["silos"][silo].get(name) for one in results[label]]
                if None in values:
                    reason = _reason(results[label], silo, name)
                    absent.setdefault(label, {}).setdefault(silo, {})[name] = reason
                    continue
                replicates = resampling.replicates(name, runs)
                spread[label][silo][name] = replicates
                table[label][silo][name] = {
                    "mean": float(np.mean(values)),
                    "ci95": interval(replicates),
                    "seeds": values,
                }
    chosen_on = _grounds(experiment)
    best = {silo: _best(_told(folders, silo, chosen_on), metric) for silo in silos}
    over = {
        label: {
            silo: _over(spread, table, label, silo, metric)
            for silo in silos
            if _comparable(table, label, silo, metric)
        }
        for label in folders
        if label not in YARDSTICKS
    }
    benefit = {
        silo: {
            "best": label,
            "over_local": over[label][silo]["mean"],
            "ci95": over[label][silo]["ci95"],
            "verdict": verdict(over[label][silo]["ci95"]),
        }
        for silo, label in best.items()
        if label and silo in over[label]
    }
    warnings = [
        f"{label} is worse than local at {silo} by {-its['mean']:.3f} in {metric} "
        f"(95 % interval {-its['ci95'][1]:.3f} to {-its['ci95'][0]:.3f})"
        for label, per_silo in over.items()
        for silo, its in per_silo.items()
        if verdict(its["ci95"]) == "loses"
    ]
    content = {
        "fedtl": fedtl.__version__,
        "task": task,
        "metric": metric,
        "model": experiment.model.name,
        "rounds": experiment.rounds,
        "seeds": list(experiment.compare.seeds),
        "methods": table,
        "mean": {label: _over_silos(table[label], spread[label]) for label in folders},
        "worst": {label: _worst(table[label], metric) for label in folders},
        "chosen_on": chosen_on,
        "benefit": benefit,
        "over_local": over,
        "warnings": [*warnings, *_statistics(results)],
    }
    extra = {
        "absent": absent,
        "refitted": _refitted(results),
        "target": _target(results),
        "late": _late(results),
    }
    return content | {key: value for key, value in extra.items() if value}


def curves(experiment: Experiment, folders: Mapping[str, Sequence[RunFolder]]) -> dict[str, Curve]:
    """
    Per column, the mean over silos and seeds of validation figures. The first is of the model before any round, as each
    silo would have used it; the last of the very models that the table scores. Of a private comparison only what
    silos released, which is of the received model: yardsticks release nothing, and the last figures are exact.
    """
    if experiment.privacy is not None:
        folders = {label: runs for label, runs in folders.items() if label not in YARDSTICKS}
    key = "rmse" if experiment.data.task == "regression" else "accuracy"
    found: dict[str, Curve] = {}
    for label, runs in folders.items():
        seen: dict[int, list[float]] = {}
        counts: dict[int, int] = {}
        for run in runs:
            names = run.read_json("result.json")["silos"]
            for line in run.history():
                values = [its[key] for its in line["silos"].values() if key in its]
                seen.setdefault(line["round"], []).extend(values)
                everybody = (
                    len(names) if set(line["silos"]) == {POOLED} else len(values)
                )  # one has all silos' rows
                counts[line["round"]] = counts.get(line["round"], 0) + everybody
            if experiment.privacy is None:
                last = [its[key] for its in _validated(run, names) if key in its]
                seen.setdefault(experiment.rounds + 1, []).extend(last)
                counts[experiment.rounds + 1] = counts.get(experiment.rounds + 1, 0) + len(last)
        means = [float(np.mean(seen[at])) if seen[at] else float("nan") for at in sorted(seen)]
        found[label] = Curve(means, [counts[at] // len(runs) for at in sorted(seen)])
    return found


def _validated(run: RunFolder, silos: Iterable[str]) -> list[Figures]:
    """Of every silo, the validation figures of the model that the table scores."""
    names = [f"silos/{silo}/validation.json" for silo in silos]
    return [run.read_json(name) for name in names if run.has(name)]


def _answers(folder: RunFolder, silo: str) -> Answers:
    tensors = folder.tensors(f"silos/{silo}/test.safetensors")
    return Answers(tensors["scores"].double().numpy(), tensors["y"].numpy(), tensors["ids"].numpy())


def _grounds(experiment: Experiment) -> str | None:
    """
    What a silo's best method is chosen on: exact figures on its validation rows, or, where those are private, the noisy
    ones that it released; None where it released none, for such a choice would tell about the rows and be charged nowhere.
    """
    if experiment.privacy is None:
        return VALIDATION
    return RELEASED if experiment.metric in experiment.privacy.metrics else None


def _told(
    folders: Mapping[str, Sequence[RunFolder]], silo: str, grounds: str | None
) -> dict[str, list[Figures]]:
    """Per method of joining, those figures of each run; {} where a run has none of this silo."""
    found: dict[str, list[Figures]] = {}
    for label, runs in folders.items() if grounds else ():
        if label in YARDSTICKS:
            continue
        if grounds == RELEASED:
            said = [[line["silos"][silo] for line in run.history() if silo in line["silos"]] for run in runs]
            found[label] = [lines[-1] if lines else {} for lines in said]
        else:
            name = f"silos/{silo}/validation.json"
            found[label] = [run.read_json(name) if run.has(name) else {} for run in runs]
    return found


def _best(told: Mapping[str, Sequence[Figures]], metric: str) -> str | None:
    """
    The method with the best mean figure; ties go to the one listed first. Where the validation rows cannot give the
    metric (an AUC needs both classes), their loss decides.
    """
    for name in (metric, "loss"):
        chosen: tuple[str, float] | None = None
        for label, figures in told.items():
            if values := [its[name] for its in figures if name in its]:
                mean = float(np.mean(values))
                chosen = (label, mean) if chosen is None or better(name, mean, chosen[1]) else chosen
        if chosen:
            return chosen[0]
    return None


def _comparable(table: Mapping[str, Any], label: str, silo: str, metric: str) -> bool:
    return all(metric in table.get(name, {}).get(silo, {}) for name in (label, LOCAL))


def _over(
    spread: Mapping[str, Any], table: Mapping[str, Any], label: str, silo: str, metric: str
) -> dict[str, Any]:
    mine, other = (np.array(table[name][silo][metric]["mean"]) for name in (label, LOCAL))
    replicates = gain(metric, spread[label][silo][metric], spread[LOCAL][silo][metric])
    return {"mean": float(gain(metric, mine, other)), "ci95": interval(replicates)}


def _over_silos(table: Mapping[str, Any], spread: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in sorted({name for figures in table.values() for name in figures}):
        having = [silo for silo in table if metric in table[silo]]
        seeds = np.mean([table[silo][metric]["seeds"] for silo in having], axis=0)
        replicates = np.nanmean(np.stack([spread[silo][metric] for silo in having]), axis=0)
        found[metric] = {
            "mean": float(seeds.mean()),
            "ci95": interval(replicates),
            "seeds": seeds.tolist(),
            "silos": len(having),
        }
    return found


def _worst(table: Mapping[str, Any], metric: str) -> dict[str, Any]:
    means = {silo: {name: its["mean"] for name, its in figures.items()} for silo, figures in table.items()}
    return worst_of(metric, means)


def _reason(runs: Sequence[Mapping[str, Any]], silo: str, metric: str) -> str:
    """Why a silo lacks a figure, as the first run without it says; its seed where other runs have the figure."""
    lacking = [run for run in runs if metric not in run["silos"][silo]]
    reason: str = lacking[0]["silos"][silo].get("absent", {}).get(metric, "it was not measured")
    return reason if len(lacking) == len(runs) else f"{reason} (seed {lacking[0]['seed']})"


def _statistics(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Where the statistics that training left are far from exact ones; and which statistics private runs use."""
    far = {label: _far(runs) for label, runs in results.items()}
    said = {
        note: [label for label, runs in results.items() if note in runs[0].get("notes", [])]
        for note in (AS_LEFT, LOCAL_AFTER)
    }
    found = [f"{', '.join(labels)}: {note}" for note, labels in said.items() if labels]
    for shared in (False, True):
        places = [
            f"{label} at {count} of {len(results[label][0]['silos'])} silos"
            for label, count in far.items()
            if count and shared == any("refitted" in its for its in results[label][0]["silos"].values())
        ]
        if places:
            found.append(f"{FAR_AWAY[shared]}: {', '.join(places)}")
    return found


def _far(runs: Sequence[Mapping[str, Any]]) -> int:
    """At how many silos the distance, averaged over seeds, is beyond ``FAR``."""
    distances = [
        [run["silos"][silo].get("statistics_distance", 0.0) for run in runs] for silo in runs[0]["silos"]
    ]
    return sum(float(np.mean(those)) > FAR for those in distances)


def _refitted(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Of methods that share the norms' statistics: figures with each silo's exact ones instead."""
    found: dict[str, Any] = {}
    for label, runs in results.items():
        for silo in runs[0]["silos"]:
            figures = [run["silos"][silo].get("refitted") for run in runs]
            if all(figures):
                found.setdefault(label, {})[silo] = _averaged(figures)
    return found


def _target(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for label, runs in results.items():
        for silo in runs[0]["silos"]:
            rows = {row: [run["silos"][silo].get(row) for run in runs] for row in ("target", "target_adabn")}
            if kept := {row: _averaged(ones) for row, ones in rows.items() if all(ones)}:
                found.setdefault(label, {})[silo] = kept
    return found


def _late(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        label: {
            silo: {row: _averaged([run["late"][silo][row] for run in runs]) for row in runs[0]["late"][silo]}
            for silo in runs[0]["late"]
        }
        for label, runs in results.items()
        if runs[0].get("late")
    }


def _averaged(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [name for name in figures[0] if name != "absent" and all(name in one for one in figures)]
    absent = {name: reason for one in figures for name, reason in one.get("absent", {}).items()}
    means = {
        name: {
            "mean": float(np.mean([one[name] for one in figures])),
            "seeds": [one[name] for one in figures],
        }
        for name in names
    }
    return {**means, **({"absent": absent} if absent else {})}
