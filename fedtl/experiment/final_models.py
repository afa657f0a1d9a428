"""
The model that a silo uses after a run, in the run folder: ``local.safetensors`` has the tensors that differ from the shared
ones, and those of a second model by names such as "own/body.0.weight"; ``mix.json`` has the weights of the models. Of a model
with adapters, ``frozen.safetensors`` has what never moves, once for all silos.
"""

from collections.abc import Collection, Mapping

import torch

from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.candidate import Candidate
from fedtl.methods.sets import as_part, part
from fedtl.models.state import State
from fedtl.privacy.taint import Label
from fedtl.results.run import Mix
from fedtl.training.at_home import FinalModel, Member
from fedtl.training.trainer import Trainer

SHARED, FROZEN = "shared.safetensors", "frozen.safetensors"


def save_frozen(folder: RunFolder, trainer: Trainer, first: Mapping[str, Label]) -> State:
    """Write the tensors that never move, if the model has any, and return them. ``first``: the provenance of first weights."""
    if not trainer.spec.frozen:
        return {}
    initial = trainer.initial(1)
    frozen = {name: initial[name] for name in sorted(trainer.spec.frozen)}
    folder.save_tensors(FROZEN, frozen, first)
    return frozen


def frozen_tensors(folder: RunFolder) -> State:
    """Return the tensors that never moved; {} where there are none. Raises ConfigError where the file is damaged."""
    return folder.tensors(FROZEN) if folder.has(FROZEN) else {}


def common_labels(folder: RunFolder) -> Mapping[str, Label] | None:
    """Return the provenance of the tensors that all silos have; None where a file does not record it."""
    known = [folder.labels(name) for name in (SHARED, FROZEN) if name == SHARED or folder.has(name)]
    return None if None in known else {name: label for one in known for name, label in (one or {}).items()}


def save_final_model(
    folder: RunFolder, silo: str, model: FinalModel, shared: State, labels: Mapping[str, Label]
) -> None:
    """
    Write a silo's final model. ``shared``: the tensors that all silos have, frozen ones included. ``labels``: the provenance of the tensors of a main model that came of training together. A
    further model, and a main model that the silo trained alone, was trained at the silo without noise.
    """
    own, further = State(), State()
    for member in model.members:
        if member is model.main and member.name is not Candidate.OWN:
            own = {
                name: tensor
                for name, tensor in member.state.items()
                if name not in shared or not torch.equal(tensor, shared[name])
            }
        else:
            further |= as_part(member.name, member.state)
    if model.main.name is Candidate.INTERPOLATED:  # it may be part of a model that the silo trained alone
        labels = dict.fromkeys(own, Label.LOCAL)
    everywhere = {**labels, **dict.fromkeys(further, Label.LOCAL)}
    folder.save_tensors(f"silos/{silo}/local.safetensors", own | further, everywhere)
    if (mix := mix_of(model)) is not None:
        folder.write_json(f"silos/{silo}/mix.json", mix)


def mix_of(model: FinalModel) -> Mix | None:
    """Return what a result says of a mix, the main model first; None where it is one model that came of training together."""
    if len(model.members) == 1 and model.main.name is not Candidate.OWN:
        return None
    ordered = sorted(model.members, key=lambda member: member is not model.main)
    return Mix({member.name: member.weight for member in ordered}, model.validation_rows, model.mixes)


def load_final_model(folder: RunFolder, silo: str, names: Collection[str]) -> FinalModel:
    """Return a silo's final model. ``names``: of a model's tensors. Raises ConfigError where a file is damaged."""
    own = folder.tensors(f"silos/{silo}/local.safetensors")
    shared = folder.tensors(SHARED) | frozen_tensors(folder)
    main = {name: own.get(name, shared.get(name, torch.empty(0))) for name in names}
    mix = folder.mix(silo)
    if mix is None:
        return FinalModel((Member(Candidate.TUNED, 1.0, main),))
    members = [
        Member(Candidate(name), weight, part(own, name) if number or name == Candidate.OWN else main)
        for number, (name, weight) in enumerate(mix.weights.items())
    ]
    return FinalModel(tuple(members), mix.validation_rows, mix.mixes)
