"""What other libraries, or an earlier fedtl, let be set in private training, and ``[privacy]`` does not: why, for whoever looks for it."""

from typing import Any

NOISE = (
    "the noise follows from privacy.epsilon, privacy.delta, the rows and the planned steps, and is never 0; "
    "without the table [privacy] there is none"
)
SAMPLE = (
    "each step takes every unit by its own coin (Poisson), and that is what is booked; batches of shuffled rows, booked "
    "as that, would cost more than the ledger says"
)
RATE = (
    "privacy.sample_rate says how likely each unit is drawn, and without it train.batch_size over the units does; Poisson "
    "samples differ in size, and none is dropped"
)
STEPS = (
    "privacy.steps says how many a round has, and without it train.epochs, train.batch_size and the rows do; they are fixed "
    "beforehand: other steps than those that are booked would make the epsilon untrue"
)
CLIP = 'it is called "privacy.clip": of the gradient of one unit, in the norm over all tensors that move'
SOURCE = (
    "noise and samples always come from the operating system and can be drawn by nobody again; "
    'privacy.noise = "reproducible" takes both from seed, for debugging, and then nothing is private'
)
LEDGER = "each silo has one ledger for all rounds, which is charged before each and never begun anew"
ADJACENCY = (
    "epsilon is for zero-out of one unit, with their number public; that for replace-one is printed beside it"
)
METRIC = "privacy.metrics says what may leave besides noisy tensors, and it is charged; losses and exact figures stay"

REASONS = {
    **dict.fromkeys(("noise_multiplier", "sigma", "noise_scale", "noise_std", "noise_level"), NOISE),
    **dict.fromkeys(("poisson", "poisson_sampling", "shuffle", "shuffled", "sampling", "sampler"), SAMPLE),
    **dict.fromkeys(("sampling_rate", "batch_size", "drop_last"), RATE),
    **dict.fromkeys(("max_steps", "steps_per_round", "steps_a_round", "epochs", "rounds"), STEPS),
    **dict.fromkeys(("max_grad_norm", "clipping_norm", "l2_norm_clip", "clip_norm", "clipping"), CLIP),
    **dict.fromkeys(("secure_mode", "secure_rng", "secure", "seed", "noise_seed", "generator"), SOURCE),
    **dict.fromkeys(("accountant", "reset", "reset_engine", "per_round", "epsilon_per_round"), LEDGER),
    **dict.fromkeys(("adjacency", "neighbouring", "neighboring", "replace_one"), ADJACENCY),
    **dict.fromkeys(("metric", "loss", "accuracy", "validation", "val"), METRIC),
}
GONE = {
    ("tuning", "charged"): (
        "fedtl never computed what choosing settings on private rows costs, so the word promised a charge that nobody made; "
        'write "public" if only public rows were looked at, and otherwise "undeclared"'
    )
}


def gone(path: str, value: Any) -> str | None:
    """Why this value of a setting of ``[privacy]`` is no longer there, and what to do; None for any other."""
    *above, key = path.split(".")
    return GONE.get((key, value)) if above[-1:] == ["privacy"] and isinstance(value, str) else None


def absent(path: str) -> str | None:
    """Why there is no such key under ``[privacy]`` or ``[silo.<name>.privacy]``; None for any other."""
    *above, key = path.split(".")
    return REASONS.get(key) if above[-1:] == ["privacy"] else None
