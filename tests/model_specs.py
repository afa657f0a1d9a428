"""
Models that are built and tried once in each process, and then copied: the trial of a cut takes longer than a round of a small run. The
files whose subject is models are MODELS_BUILT of ``tests.conftest``.
"""

from copy import deepcopy

import torch

from fedtl.models import registry


def build_once(patch):
    """Copy the models of fedtl's own table, by their name, settings, shape and seed."""
    sound, built = registry.custom_spec, {}

    def custom_spec(make, name, shape, seed):
        own = registry.MODELS.own.get(name)
        if own is None or getattr(make, "func", None) is not own:  # of a library, or of a program
            return sound(make, name, shape, seed)
        key = (own, repr(make.keywords), shape, seed, torch.get_default_dtype())
        if key not in built:
            built[key] = sound(make, name, shape, seed)
        return deepcopy(built[key])

    patch.setattr(registry, "custom_spec", custom_spec)
