"""
Every architecture of timm: is it cut at its classifier, does the cut model give scores, and has each tensor a role? If not, why?

    python -m tests.models.timm_zoo [FAMILY ...] [--one] [--largest N]

prints a line for each architecture and the counts. ``--one``: the smallest of each family (module of timm) only. ``--largest``:
the most parameters, in millions, of an architecture that is tried.
"""

import argparse
import gc
import json
from collections import Counter

import torch

from fedtl.errors import ModelError
from fedtl.models.libraries import import_timm
from fedtl.models.registry import model_spec
from fedtl.models.roles import Role, roles

SHAPE = (3, 64, 64)
CUT, TOO_LARGE = "cut", "too large"
SMALL = (
    *("test", "atto", "femto", "pico", "nano", "xxs", "xxt", "micro", "tiny", "mini"),
    *("xs", "small", "t", "s", "lite", "b0"),
)


def families():
    """The names of timm's architectures by the module that they are in."""
    timm = import_timm()
    return {
        module: timm.list_models(module=module)
        for module in timm.list_modules()
        if timm.list_models(module=module)
    }


def size_of(name):
    """The number of parameters, without memory for them; None where an architecture cannot be built so."""
    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in import_timm().create_model(name).parameters())
    except Exception:
        return None


def outcome(name, shape=SHAPE):
    """``CUT``, or the reason in one line. A model that is cut wrongly, or an error of another kind, is raised."""
    try:
        spec = model_spec(name, shape, 0)
    except ModelError as error:
        (line,) = str(error).splitlines()
        return line.removeprefix(f"model.name = {name!r}: ")
    net = spec.net(3).eval()
    by_role = roles(net)
    assert by_role.keys() == net.state_dict().keys()
    heads = {tensor for tensor, role in by_role.items() if role is Role.HEAD}
    assert heads, name
    assert heads == {tensor for tensor in by_role if tensor.startswith("head.")}, name
    with torch.no_grad():
        assert net(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))).shape == (2, 3), name
    return CUT


def smallest(names):
    """The smallest of the few names that sound small, because to count the parameters of all takes minutes."""

    def rank(name):
        parts = name.split("_")
        return next(
            (number for number, word in enumerate(SMALL) if any(part.startswith(word) for part in parts)),
            len(SMALL),
        )

    sizes = {name: size for name in sorted(names, key=rank)[:4] if (size := size_of(name)) is not None}
    return min(sizes, key=sizes.__getitem__) if sizes else names[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("family", nargs="*")
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--largest", type=float, default=100)
    words, counts = parser.parse_args(), Counter()
    for module, names in families().items():
        for name in (
            [] if words.family and module not in words.family else [smallest(names)] if words.one else names
        ):
            size = size_of(name)
            found = TOO_LARGE if size and size > words.largest * 1e6 else outcome(name)
            counts[found if found in (CUT, TOO_LARGE) else "refused"] += 1
            print(
                json.dumps({"family": module, "name": name, "parameters": size, "outcome": found}), flush=True
            )
            gc.collect()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
