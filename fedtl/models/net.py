"""
A model as fedtl sees it: a body that turns inputs into features, and a head that scores them.

Knows how to take a library's model apart at its classifier and put a classifier of another width in its place.
Must not know where the model came from.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedtl._util.randomness import address
from fedtl.errors import ModelError
from fedtl.models.norms import is_norm

Shape = tuple[int, ...]  # of one input: (columns,) or (channels, height, width)
MakeModules = Callable[[int], Mapping[str, nn.Module]]  # from the number of features


class Net(nn.Module):
    """Body, head, and what the objective adds; the names at the top are the roles' places."""

    def __init__(self, body: nn.Module, head: nn.Module, aux: nn.ModuleDict) -> None:
        super().__init__()
        self.body, self.head, self.aux = body, head, aux

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores


@dataclass(frozen=True)
class ModelSpec:
    """
    What nets are made of: one body, and heads of any width.

    ``classifier`` is the head's path in the model as its library names it ("fc", "head.fc"); by it tensors find
    their way from a library's file into the net and back.
    """

    body: nn.Module
    make_head: Callable[[int], nn.Module]
    features: int
    classifier: str
    seed: int

    def net(self, width: int, parts: Iterable[MakeModules] = ()) -> Net:
        """
        A net over this very body (not a copy). A head's first weights depend on seed and width alone. ``parts`` make the modules
        that losses add.
        """
        with _seeded(self.seed, "head", width):
            head = self.make_head(width)
        aux = nn.ModuleDict()
        for make in parts:
            with _seeded(self.seed, "aux"):
                aux.update(make(self.features))
        return Net(self.body, head, aux)

    def library_name(self, name: str) -> str:
        """``head.weight`` as the library calls it: ``fc.weight``."""
        part, rest = name.split(".", 1)
        return rest if part == "body" else f"{self.classifier}.{rest}"

    def net_name(self, name: str) -> str:
        """Undoes ``library_name``."""
        inside = name.startswith(f"{self.classifier}.")
        return f"head.{name.removeprefix(f'{self.classifier}.')}" if inside else f"body.{name}"


def seeded_build(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build with first weights that depend on the seed alone; the global generator is left as it was."""
    with _seeded(seed, "body"):
        return build()


def split_at_classifier(model: nn.Module, classifier: str, shape: Shape, seed: int) -> ModelSpec:
    """
    Take ``model`` apart at the module whose path is ``classifier``: the body is the model without it.

    Raises ModelError unless head(body(x)) gives the very scores of the whole model, on a random input.
    """
    old = model.get_submodule(classifier)
    make_head, features = _heads_like(old)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    model.eval()
    try:
        with torch.no_grad():
            whole = model(x)
            model.set_submodule(classifier, nn.Identity())
            parts = old(model(x))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(f"the model cannot take inputs of shape {shape}: {_first_line(error)}") from error
    if (
        not isinstance(whole, Tensor)
        or parts.shape != whole.shape
        or not torch.allclose(parts, whole, atol=1e-4)
    ):
        raise ModelError(
            f"its classifier {classifier!r} is not its last layer, so it has no head to keep at home"
        )
    model.train()
    return ModelSpec(model, make_head, features, classifier, seed)


def stages(body: nn.Module) -> list[list[str]]:
    """
    The parameters of a body, by name, in stages from the input on: what ``[model] freeze`` counts.

    A stage is a child that owns parameters, together with the norms that follow it. Where a body has fewer than
    three composite children (a transformer has one: its blocks), those are opened and their children count.
    """
    found: list[list[str]] = []
    for path, module in _blocks("", body):
        names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
        if is_norm(module) and found:
            found[-1] += names
        elif names:
            found.append(names)
    direct = [name for name, _ in body.named_parameters(recurse=False)]
    if direct and found:
        found[0] = direct + found[0]
    elif direct:
        found = [direct]
    return found


def _blocks(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    children = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
    composite = [
        child
        for _, child in children
        if not is_norm(child) and sum(map(_owns_parameters, child.children())) > 1
    ]
    opened = composite if len(composite) < 3 else []
    return [
        block
        for name, child in children
        for block in (_blocks(name, child) if child in opened else [(name, child)])
    ]


def _heads_like(old: nn.Module) -> tuple[Callable[[int], nn.Module], int]:
    if isinstance(old, nn.Linear):
        return lambda width: nn.Linear(old.in_features, width, old.bias is not None), old.in_features
    if isinstance(old, nn.Conv2d) and old.kernel_size == (1, 1):
        return lambda width: nn.Conv2d(old.in_channels, width, 1, bias=old.bias is not None), old.in_channels
    if isinstance(old, nn.Sequential) and any(map(_owns_parameters, old)):
        last = max(index for index, layer in enumerate(old) if _owns_parameters(layer))
        make_last, features = _heads_like(old[last])

        def make(width: int) -> nn.Module:
            head = deepcopy(old)
            head[last] = make_last(width)
            return head

        return make, features
    raise ModelError(
        f"its classifier is a {type(old).__name__}; fedtl knows how to widen Linear and 1 x 1 Conv2d"
    )


def _owns_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


@contextmanager
def _seeded(*parts: str | int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(address(*parts))
        yield


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# Old names, until all callers are merged.
cut = split_at_classifier
