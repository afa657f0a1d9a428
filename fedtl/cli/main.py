"""The ``fedtl`` command. It parses and prints, and imports torch and other libraries only in the command that needs them."""

import logging
import signal
import sys
import threading
from typing import Annotated, Any, NoReturn

import typer

from fedtl.cli import audit, inspect, lists, models, onboard, server, silo, train
from fedtl.cli.new import new
from fedtl.cli.run_folder import discard_created, interrupted_note
from fedtl.cli.schema import schema
from fedtl.cli.screen import out_console, print_line, say
from fedtl.cli.transferability import transferability
from fedtl.cli.watch import watch
from fedtl.errors import FedTLError

INTERRUPTED = 130

app = typer.Typer(
    help="Federated transfer learning: institutions train a shared backbone without sharing their rows. Each keeps its data, its "
    "head and its normalisation statistics.",
    epilog="Start with: fedtl compare digits. The help of a command shows an example: fedtl run --help",
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    new,
    *(train.run, train.compare, transferability),
    *(inspect.show, inspect.lint, lists.methods, lists.models, inspect.data, schema),
    *(
        watch,
        models.predict,
        models.embed,
        models.export,
        models.grow,
        models.report,
        onboard.onboard,
        audit.audit,
    ),
):
    app.command()(command)
app.add_typer(silo.app, name="silo")
app.add_typer(server.app, name="server")


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    if version:
        import fedtl

        print_line(f"fedtl {fedtl.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        out_console.print(context.get_help(), highlight=False, markup=False)
        raise typer.Exit(2)


def main() -> None:
    """
    Run the command and exit. An error of fedtl, of a file, of a model or of an option is one line on stderr and an exit code.
    SIGTERM, which a cluster's scheduler sends, ends it as Ctrl-C does.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("fedtl").setLevel(logging.INFO)
    for name in ("httpx", "matplotlib", "timm", "huggingface_hub", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
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
            _fail_of_model(error)
            raise
        _fail(error.format_message() + _hint(error), 2)  # an error of click, such as an unknown option
    if code == INTERRUPTED:  # click returns it for Ctrl-C, too
        say(f"interrupted; {interrupted_note()}")
    sys.exit(code or 0)


def _fail_of_model(error: Exception) -> None:
    """End with one line where a module of a model raised the error. Only then torch is loaded anyway."""
    if "torch" in sys.modules:
        from fedtl.models.failures import module_failure

        if (line := module_failure(error)) is not None:
            _fail(line, 2)


def _hint(error: Any) -> str:
    """Return how settings are changed, for an unknown option of a command that has ``--set``: it may be meant as a setting."""
    context = getattr(error, "ctx", None)
    if not hasattr(error, "option_name") or context is None:
        return ""
    takes_settings = any("--set" in parameter.opts for parameter in context.command.params)
    return " Settings are changed with --set, such as --set rounds=20" if takes_settings else ""


def _fail(text: str, code: int) -> NoReturn:
    discard_created()
    say(f"error: {text}")
    sys.exit(code)
