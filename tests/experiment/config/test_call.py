"""Settings from a file become a function's arguments, of the types that its parameters say."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

import pytest
from annotated_types import Ge

from fedtl.errors import ConfigError
from fedtl.experiment.config.call import call


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    scale: float = 1.0


def make(
    layers: tuple[str, ...] = (),
    rate: float | None = None,
    shift: float = 0.0,
    count: Annotated[int, Ge(0)] = 1,
    colours: frozenset[Colour] = frozenset(),
    kind: Literal["a", "b"] = "a",
    inner: Inner = Inner(),
    pairs: tuple[tuple[int, float], ...] = (),
):
    return locals()


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"layers": ["head.", "body."]}, {"layers": ("head.", "body.")}),
        ({"rate": 0.5}, {"rate": 0.5}),
        ({"rate": 2}, {"rate": 2.0}),
        ({"shift": -3}, {"shift": -3.0}),
        ({"colours": ["red"]}, {"colours": frozenset({Colour.RED})}),
        ({"kind": "b"}, {"kind": "b"}),
        ({"inner": {"scale": 3}}, {"inner": Inner(3.0)}),
        ({"pairs": [[1, 2], [3, 0.5]]}, {"pairs": ((1, 2.0), (3, 0.5))}),
    ],
)
def test_values_of_a_file_become_the_types_of_the_parameters(settings, wanted):
    given = call(make, settings, "method.")
    assert given == {**make(), **wanted}
    assert all(type(given[name]) is type(value) for name, value in wanted.items())


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"layers": "head."}, "method.layers"),
        ({"layers": [1]}, "method.layers"),
        ({"rate": "x"}, "method.rate"),
        ({"rate": True}, "method.rate"),
        ({"shift": float("inf")}, "method.shift"),
        ({"count": -1}, "method.count"),
        ({"count": 1.5}, "method.count"),
        ({"count": True}, "method.count"),
        ({"colours": ["blue"]}, "method.colours"),
        ({"kind": "c"}, "method.kind"),
        ({"inner": {"size": 1}}, "method.inner"),
        ({"pairs": [[1]]}, "method.pairs"),
        ({"sizes": 1}, "method.sizes"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(settings, at):
    with pytest.raises(ConfigError) as caught:
        call(make, settings, "method.")
    assert at in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parameter_without_a_default_must_be_given():
    with pytest.raises(ConfigError, match="method.size"):
        call(lambda size: size, {}, "method.")
