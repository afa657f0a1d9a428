"""A number and its noun, as messages write them."""


def counted(count: int, noun: str) -> str:
    """A number and its noun: "1 round", "2 rounds"."""
    return f"{count} {noun}{'s' * (count != 1)}"
