"""Names and values of several silos in one line."""

from collections.abc import Mapping, Sequence


def by_silo(values_of: Mapping[str, Sequence[str]], most: int = 3, quoted: bool = True) -> str:
    """Return "north: 'a', 'b'; south: 'a'", with at most ``most`` silos and values each; "" where no silo has any."""
    texts = {
        name: [repr(value) if quoted else value for value in values]
        for name, values in values_of.items()
        if values
    }
    silos = [f"{name}: {first_of(values, most, ', ')}" for name, values in texts.items()]
    return first_of(silos, most, "; ")


def first_of(texts: Sequence[str], most: int, separator: str) -> str:
    """Return the first texts, and how many more there are."""
    rest = len(texts) - most
    return separator.join([*texts[:most], *([f"{rest} more"] if rest > 0 else [])])
