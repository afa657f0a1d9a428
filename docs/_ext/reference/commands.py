"""The command line: each command with its usage, its help, and its options."""

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from fedtl.cli.main import app
from reference.markdown import code, prose, table

VALUES = {"INTEGER": "whole number", "FLOAT": "number", "TEXT": "text", "PATH": "path"}


def commands() -> str:
    """Return a section for each command, those of ``fedtl silo`` and ``fedtl server`` included."""
    return "\n\n".join(
        _command(name, command) for name, command in leaves(typer.main.get_command(app), "fedtl")
    )


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each command that has no further commands, with its full name."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for part, below in inner.items():
        yield from leaves(below, f"{name} {part}")


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    options = [one for one in command.params if getattr(one, "opts", [""])[0].startswith("-")]
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    rows = (
        [
            ", ".join(code(opt) for opt in [*one.opts, *one.secondary_opts]),
            _values(one),
            prose(one.help or ""),
        ]
        for one in options
        if one.name != "help"
    )
    parts = [
        f"## {name}",
        f"```text\n{usage}\n```",
        _help(command.help or ""),
        table(["option", "value", "what it does"], rows),
    ]
    return "\n\n".join(parts if options else parts[:-1])


def _values(option: Any) -> str:
    if option.is_flag:
        return ""
    shown = option.metavar or option.type.name.upper()
    return (
        code(shown)
        + (" (required)" if option.required else "")
        + (", can be repeated" if option.multiple else "")
    )


def _help(text: str) -> str:
    """Return the help of a command; its last line is an example."""
    lines = inspect.cleandoc(text).replace("\b", "").replace(r"\[", "[").splitlines()
    plain = [prose(line) for line in lines if line.strip() and not line.startswith("Example:")]
    examples = [line.removeprefix("Example:").strip() for line in lines if line.startswith("Example:")]
    return "\n\n".join([" ".join(plain), *(f"```\n{example}\n```" for example in examples)])
