"""
The arguments and options that several commands have.

typer 0.20 with click 8.5 does not show the help of arguments, so the text of each command explains its arguments.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtl.cli.screen import say
from fedtl.errors import ConfigError

if TYPE_CHECKING:
    from fedtl.deployment.site.home import Home

Exp = Annotated[str, typer.Argument(metavar="EXP")]
OptionalExp = Annotated[str | None, typer.Argument(metavar="EXP")]
Run = Annotated[Path, typer.Argument(metavar="RUN")]
FileKind = Annotated[str, typer.Argument(metavar="FILE")]
SiloName = Annotated[str, typer.Option(help="the silo whose model is used")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="change one setting, such as train.lr=0.01; can be repeated"
    ),
]
Out = Annotated[Path | None, typer.Option(help="folder for the results, new or empty; default: under runs/")]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="continue the interrupted run in this folder with its own settings"),
]
MoreRounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="with --resume: continue for this many rounds beyond the number that the run was started with",
    ),
]
Seeds = Annotated[str | None, typer.Option(help="seeds with commas between them: 0,1,2")]
LeaveOneOut = Annotated[
    bool,
    typer.Option(
        "--leave-one-out", help="also train one method without each silo in turn, to see who helps whom"
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="number of processes; default: one per CPU core, or one per GPU"),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Quiet = Annotated[bool, typer.Option("--quiet", help="print only the path of the results")]
Dir = Annotated[Path, typer.Argument(metavar="DIR")]
Metrics = Annotated[
    int | None,
    typer.Option(
        min=1, max=65535, help="serve figures for Prometheus at 127.0.0.1:PORT/metrics", metavar="PORT"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout, and nothing else")]


def device_for(name: str) -> str:
    """Return "cuda" or "cpu" for the value of --device. Raises ConfigError."""
    from fedtl.simulation.choose import choose_device

    return choose_device(name)


def seeds_override(seeds: str | None) -> list[str]:
    """Return the change of ``--seeds``. Raises ConfigError for anything but whole numbers."""
    if seeds is None:
        return []
    if not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise ConfigError(f"--seeds {seeds!r}: write whole numbers with commas between them, as in 0,1,2")
    return [f"compare.seeds={json.dumps([int(seed) for seed in seeds.split(',')])}"]


def open_home(folder: Path) -> "Home":
    """Open the folder of an institution, and print which keys of its silo.toml have new names. Raises ConfigError."""
    from fedtl.deployment.site.home import Home

    home = Home.open(folder)
    if home.settings.old_keys:
        say(f"note: {folder / 'silo.toml'}: {home.settings.old_keys}")
    return home
