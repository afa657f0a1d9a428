"""``fedtl audit``: attack a run, and verify what somebody else's attack came to."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    Progress,
)

from fedtl.cli.run_folder import begin, run_page
from fedtl.cli.screen import (
    Device,
    Json,
    Quiet,
    Set,
    Workers,
    bar_columns,
    device_for,
    err_console,
    out_console,
    print_json,
    say,
)
from fedtl.errors import ConfigError, Refuted

if TYPE_CHECKING:
    from fedtl.experiment.run_folder import RunFolder

CANARIES, MESSAGES = 1000, 8  # that ``fedtl audit EXP`` adds where the experiment has none
PLAIN: Any = {"highlight": False, "markup": False, "soft_wrap": True}
VANTAGES = ("server", "silo", "model")


def audit(
    target: Annotated[
        str,
        typer.Argument(
            metavar="EXP|RUN|EXPORT|verify",
            help="an experiment to run and audit, a run folder, a site's export, or: verify BUNDLE",
        ),
    ],
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="with verify: the folder to check")
    ] = None,
    vantage: Annotated[
        str, typer.Option(help="who attacks: server (every update), silo (what comes back) or model")
    ] = "server",
    out: Annotated[
        Path | None, typer.Option(help="the bundle's folder; default: audit, in the run's folder")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="one reference model, no table of roles: a first look")
    ] = False,
    key: Annotated[
        str,
        typer.Option(
            help="the site's Ed25519 key, a PEM file (made if absent); with verify: the auditor's public key, 64 hex digits"
        ),
    ] = "",
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            help="print training rows of the silos in [audit] show_rows beside what was reconstructed of them",
        ),
    ] = False,
    set_: Set = None,
    workers: Workers = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Attack a run as somebody who sees it would, and put measured bounds beside the epsilon that it claims."""
    if target == "verify":
        _verify(bundle, key, as_json)
        return
    if bundle is not None:
        raise ConfigError(
            f"fedtl audit takes one EXP or RUN; {bundle} belongs to: fedtl audit verify {bundle}"
        )
    if Path(target).suffix == ".jsonl" or (Path(target).is_file() and Path(target).suffix != ".toml"):
        _export(Path(target), as_json)
        return
    if vantage not in VANTAGES:
        raise ConfigError(f"--vantage {vantage!r} is not one of {', '.join(VANTAGES)}")
    from fedtl.audit.audit import QUICK, Effort
    from fedtl.audit.audit import audit as audit_run
    from fedtl.audit.bundle import signed_by

    on, effort = device_for(device), QUICK if quick else Effort()
    folder = _run(target, set_, workers, on, quiet or as_json)
    where = out or folder.path / "audit"
    with _Pieces(quiet or as_json) as show:
        pem = Path(key) if key else folder.path / "audit-key.pem"
        found = audit_run(folder, where, vantage, effort, pem, on, show, pictures)  # type: ignore[arg-type]
    if as_json:
        print_json(found)
    elif not quiet:
        _tell(found)
        say(signed_by(pem))
    say(str(where) if quiet or as_json else f"report: {where / 'audit.html'}")
    if found["violations"]:
        raise Refuted(f"{folder.path}: {found['verdict']}; the bundle is in {where}")


def _tell(found: dict[str, Any]) -> None:
    """The statement in its order, with the numbers of each silo below what was claimed and what was measured."""
    from fedtl.report.tables import claims_table, measured_table

    tables = [claims_table(found), measured_table(found), None, None]
    for part, table in zip(found["statement"], tables, strict=True):
        out_console.print(part["title"], style="bold", **PLAIN)
        for line in part["lines"]:
            refuted = "refuted: " if line in found["violations"] else ""
            out_console.print(f"{refuted}{line}", highlight=False, markup=False)
        if table is not None:
            out_console.print(table)
        out_console.print()


def _run(
    target: str, overrides: list[str] | None, workers: int | None, device: str, silent: bool
) -> "RunFolder":
    """The run folder that TARGET is, or that a run of the experiment TARGET leaves, with canaries and messages."""
    from fedtl.audit.audit import refuse
    from fedtl.cli.screen import progress
    from fedtl.experiment.config.load import load
    from fedtl.experiment.run import run
    from fedtl.experiment.run_folder import RunFolder

    if (Path(target) / "experiment.toml").is_file():
        if overrides or workers:
            raise ConfigError(
                f"{target} is a run, whose settings are its own; leave --set and --workers away"
            )
        return RunFolder.open(Path(target).resolve())
    asked, more = load(target, overrides or []), list(overrides or [])
    refuse(asked)
    if asked.privacy is not None and not asked.audit.canaries:
        more.append(f"audit.canaries={CANARIES}")
    if not asked.audit.transcript:
        more.append(f"audit.transcript={MESSAGES}")
    place = Path("runs") / f"{Path(target).stem}-audit-{datetime.now():%Y%m%d-%H%M%S}"
    settings, folder = begin(target, more, place, None, workers, "audit")
    with progress(silent, f"{settings.method.name}: round", settings.rounds, folder) as show:
        run(settings, folder, device, lambda one: show(one.after.round))
    run_page(folder)
    return folder


class _Pieces:
    """Pieces of an audit, with what came last."""

    def __init__(self, silent: bool) -> None:
        self._bar = Progress(
            *bar_columns(), console=err_console, disable=silent or not err_console.is_terminal, transient=True
        )
        self._task = self._bar.add_task("audit", total=None)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda done, total, what: self._bar.update(
            self._task, completed=done, total=total, description=f"audit: {what}"
        )

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()


def _export(path: Path, as_json: bool) -> None:
    """What a site's papers say of themselves. Raises Refuted."""
    from fedtl.audit.export import examine

    found = examine(path)
    if as_json:
        print_json(found)
    for name, its in {} if as_json else found["studies"].items():
        out_console.print(
            f"{found['silo']}: {name}: epsilon {its['epsilon']:.4g} at delta {its['delta']:.0e}, the whole plan; up to round "
            f"{its['round']} {its['charged']:.4g} of it",
            **PLAIN,
        )
    for line in found["violations"]:
        say(f"refuted: {line}")
    if found["violations"]:
        raise Refuted(f"{len(found['violations'])} claims of {path} are refuted")
    say(f"{path}: {len(found['checks'])} checks of the papers, and no violation; nothing was measured")


def _verify(folder: Path | None, key: str, as_json: bool) -> None:
    if folder is None:
        raise ConfigError("fedtl audit verify needs the bundle's folder")
    from fedtl.audit.bundle import NOTICE, fingerprint, verify

    its = verify(folder, key)
    if as_json:
        print_json({**its.content, "signer_known": its.known})
        return
    count, whose = len(its.content["violations"]), fingerprint(its.key)
    verdict = f"{count} checks refute its claim" if count else "no violation found"
    lines = [f"{folder}: every file is as it was signed, and there is no other; {verdict}"]
    if its.known:
        lines.append(f"signed by the key that you named, {whose}")
    else:
        lines.append(
            f"WHO signed is not checked: the bundle names its own key ({whose}), and anybody can make a key and sign. Ask the "
            "auditor for the public key by another way than this bundle, for example by telephone, and run: "
            f"fedtl audit verify {folder} --key KEY"
        )
    for line in [*lines, NOTICE]:
        out_console.print(line, **PLAIN)
