"""What came of a run: a line of history each round, the files of each silo, and result.json."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch

import fedtl
from fedtl.data.dataset import SiloDataset
from fedtl.experiment.notes import statistics_notes
from fedtl.experiment.privacy_plan import claim, settled, spent, warnings
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.federation.rounds import Round
from fedtl.models.state import State
from fedtl.training.finish import Outcome
from fedtl.training.metrics import means, worst_of

EXACT = ("silos", "mean", "worst", "late")  # of a result: figures on test rows, for whoever simulates


def history_line(one: Round, seconds: float) -> dict[str, Any]:
    return {
        "round": one.after.round,
        "seconds": round(seconds, 3),
        "silos": {name: dict(reply.metrics) for name, reply in one.replies.items()},
        "left_out": dict(one.left_out),
        "bytes_up": one.bytes_up,
        "bytes_down": one.bytes_down,
    }


def keep_outcome(study: Study, folder: RunFolder, shared: State, name: str, outcome: Outcome) -> None:
    """What a silo would use: local.safetensors holds whatever differs from the shared tensors."""
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


def result_of(
    study: Study,
    folder: RunFolder,
    outcomes: Mapping[str, Outcome],
    onboarded: Mapping[str, Any],
    everybody: Mapping[str, SiloDataset],
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
            "silos": {name: spent(its, folder.path.name) for name, its in sorted(study.guarantees.items())},
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
            *statistics_notes(experiment, study.trainer, outcomes),
            *chain.from_iterable(map(warnings, study.guarantees.values())),
        ],
        "bytes_up": int(sums["bytes_up"]),
        "bytes_down": int(sums["bytes_down"]),
        "seconds": round(sums["seconds"], 3),
    }


def _of_silo(outcome: Outcome, data: SiloDataset) -> dict[str, Any]:
    """A silo's entry in result.json."""
    sizes = {"train": len(data.train), "val": len(data.val), "test": len(outcome.y)}
    others = {"target": outcome.target, "target_adabn": outcome.target_adabn, "refitted": outcome.refitted}
    found = sizes | outcome.test.plain() | {key: one.plain() for key, one in others.items() if one}
    distance = outcome.statistics_distance
    return found if distance is None else found | {"statistics_distance": distance}
