"""The ``fedtl`` command: parses and prints, decides nothing. What it needs is imported when a command asks for it."""

import logging
import sys
from typing import Annotated, NoReturn

import typer

from fedtl.cli import audit, server, silo, train
from fedtl.cli import inspect as look
from fedtl.cli import models as use
from fedtl.cli.run_folder import discarded, resumable
from fedtl.cli.screen import out_console, say
from fedtl.errors import FedTLError

INTERRUPTED = 130

app = typer.Typer(
    help="Federated transfer learning: institutions train one backbone together; data, head and statistics stay home.",
    epilog="Begin with: fedtl compare digits",
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    *(train.run, train.compare),
    *(look.show, look.lint, look.methods, look.models, look.data),
    *(use.predict, use.export, use.report, audit.audit),
):
    app.command()(command)
app.add_typer(silo.app, name="silo")
app.add_typer(server.app, name="server")


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    if version:
        import fedtl

        out_console.print(f"fedtl {fedtl.__version__}", highlight=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        out_console.print(context.get_help(), highlight=False, markup=False)
        raise typer.Exit(2)


def main() -> None:
    """Run the command; every error of ours, or of the files it was given, is one line on stderr and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("fedtl").setLevel(logging.INFO)
    for noisy in ("httpx", "matplotlib", "timm", "huggingface_hub", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        code = app(standalone_mode=False)
    except FedTLError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}", 2)
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)  # click's own: a wrong flag
    if code == INTERRUPTED:  # what click, too, turns Ctrl-C into
        kept = "nothing had been done yet" if discarded() else "what was done so far is kept" + resumable()
        say(f"interrupted; {kept}")
    sys.exit(code or 0)


def _fail(text: str, code: int) -> NoReturn:
    discarded()
    say(f"error: {text}")
    sys.exit(code)
