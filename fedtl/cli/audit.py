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
    from fedtl.report.audit_result import AuditResult

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
    from fedtl.audit.audit import AuditOptions, audit_run
    from fedtl.audit.bundle import describe_signer
    from fedtl.audit.workload import FULL, QUICK
    from fedtl.report.audit_result import Adversary, audit_json

    on, effort = device_for(device), QUICK if quick else FULL
    folder = _run(target, set_, workers, on, quiet or as_json)
    where = out or folder.path / "audit"
    with _Jobs(quiet or as_json) as show:
        pem = Path(key) if key else folder.path / "audit-key.pem"
        options = AuditOptions(Adversary(vantage), effort, on, pictures)
        result = audit_run(folder, where, options, pem, show)
    if as_json:
        print_json(audit_json(result))
    elif not quiet:
        _print_statement(result)
        say(describe_signer(pem))
    say(str(where) if quiet or as_json else f"report: {where / 'audit.html'}")
    if result.violations:
        raise Refuted(f"{folder.path}: {result.verdict}; the bundle is in {where}")


def _print_statement(result: "AuditResult") -> None:
    """Print the statement, with each silo's numbers below what was claimed and what was measured."""
    from fedtl.report.tables import claims_table, measured_table

    tables = [claims_table(result), measured_table(result), None, None]
    for part, table in zip(result.statement, tables, strict=True):
        out_console.print(part.title, style="bold", **PLAIN)
        for line in part.lines:
            refuted = "refuted: " if line in result.violations else ""
            out_console.print(f"{refuted}{line}", highlight=False, markup=False)
        if table is not None:
            out_console.print(table)
        out_console.print()


def _run(
    target: str, overrides: list[str] | None, workers: int | None, device: str, silent: bool
) -> "RunFolder":
    """The run folder that TARGET is, or that a run of the experiment TARGET leaves, with canaries and messages."""
    from fedtl.audit.audit import refuse_pooled
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
    refuse_pooled(asked)
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


class _Jobs:
    """A progress bar over the jobs of an audit, which names the kind of the last one."""

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
    """Print what can be recomputed from a site's export. Raises Refuted."""
    from dataclasses import asdict

    from fedtl.audit.export import audit_export

    result = audit_export(path)
    if as_json:
        print_json(asdict(result))
    for name, study in {} if as_json else result.studies.items():
        out_console.print(
            f"{result.silo}: {name}: epsilon {study.epsilon:.4g} at delta {study.delta:.0e} for the whole plan; "
            f"{study.charged:.4g} was charged up to round {study.round}",
            **PLAIN,
        )
    for line in result.violations:
        say(f"refuted: {line}")
    if result.violations:
        raise Refuted(f"{path}: {len(result.violations)} claims are refuted")
    say(f"{path}: {len(result.checks)} checks of ledger and egress log, no violation; nothing was measured")


def _verify(folder: Path | None, key: str, as_json: bool) -> None:
    if folder is None:
        raise ConfigError("fedtl audit verify needs the bundle's folder")
    from dataclasses import asdict

    from fedtl.audit.bundle import NOTICE, fingerprint, verify_bundle

    verified = verify_bundle(folder, key)
    if as_json:
        print_json({**asdict(verified.content), "signer_known": verified.known_signer})
        return
    count, signer = len(verified.content.violations), fingerprint(verified.content.key)
    verdict = f"{count} checks refute its claim" if count else "no violation found"
    lines = [f"{folder}: all files are as they were signed, and no file was added; {verdict}"]
    if verified.known_signer:
        lines.append(f"signed with the key that you named, {signer}")
    else:
        lines.append(
            f"WHO signed is not checked: the bundle names its own key ({signer}), and anyone can create a key. Ask the auditor "
            "for the public key by another channel, for example by telephone, and run: "
            f"fedtl audit verify {folder} --key KEY"
        )
    for line in [*lines, NOTICE]:
        out_console.print(line, **PLAIN)
