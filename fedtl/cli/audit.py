"""``fedtl audit``: attack a run and compare the results with its claim; check an exported record; verify a signed bundle."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtl._util.records import to_plain
from fedtl.cli.options import Device, Json, Quiet, Set, Workers, device_for
from fedtl.cli.run_folder import begin
from fedtl.cli.screen import out_console, print_json, print_line, progress_bar, say, training_progress
from fedtl.errors import ConfigError, Refuted
from fedtl.report.wording import format_delta
from fedtl.results.audit import Adversary

if TYPE_CHECKING:
    from fedtl.experiment.run_folder import RunFolder
    from fedtl.results.audit import AuditResult

# ``fedtl audit EXP`` sets these if the experiment does not
DEFAULT_CANARIES, DEFAULT_KEPT_MESSAGES = 1000, 8
NOTHING_AT_HOME = ("method.tune.epochs=0", 'method.choose.candidates=["tuned"]')


def audit(
    target: Annotated[str, typer.Argument(metavar="EXP|RUN|EXPORT|verify")],
    bundle: Annotated[Path | None, typer.Argument(metavar="[BUNDLE]")] = None,
    adversary: Annotated[
        Adversary,
        typer.Option(
            "--adversary",
            "--vantage",  # the name of this option in fedtl 0.1.0
            help="what the attacker sees: server (every update), silo (the model of each round) or model (the final model)",
        ),
    ] = Adversary.SERVER,
    out: Annotated[
        Path | None, typer.Option(help="folder for the signed results; default: RUN/audit")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="a shorter audit: 1 reference model, no comparison of roles")
    ] = False,
    key: Annotated[
        str,
        typer.Option(
            help="PEM file with the Ed25519 key that signs (created if missing); with verify: the auditor's public key, 64 hex digits"
        ),
    ] = "",
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            help="show reconstructed training rows and their originals, for the silos in \\[audit] show_rows",
        ),
    ] = False,
    set_: Set = None,
    workers: Workers = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """
    Attack a run and compare measured lower bounds on epsilon with the epsilon that the run claims.

    EXP (a TOML file or digits) is run with canaries and then audited.
    RUN, the folder of a run, is audited as it is.
    EXPORT is a record written by fedtl silo ledger --export: its claims are computed again, nothing is measured.
    "verify BUNDLE" checks the files and the signature of an audit's folder.
    Exit code 5: a claim is refuted.

    Example: fedtl audit digits --set privacy.epsilon=3 --quick
    """
    if target == "verify":
        _verify(bundle, key, as_json)
        return
    if bundle is not None:
        raise ConfigError(f"fedtl audit takes one EXP or RUN; to check a bundle: fedtl audit verify {bundle}")
    if Path(target).suffix == ".jsonl" or (Path(target).is_file() and Path(target).suffix != ".toml"):
        _audit_export(Path(target), as_json)
        return
    from fedtl.audit.audit import AuditOptions, audit_run
    from fedtl.audit.bundle import describe_signer
    from fedtl.audit.workload import FULL, QUICK

    device, effort, silent = device_for(device), QUICK if quick else FULL, quiet or as_json
    folder = _run_folder(target, set_, workers, device, silent)
    results = out or folder.path / "audit"
    pem = Path(key) if key else folder.path / "audit-key.pem"
    with progress_bar("audit", silent) as show:
        options = AuditOptions(adversary, effort, device, pictures)
        audited = audit_run(folder, results, options, pem, show)
    if as_json:
        print_json(to_plain(audited))
    elif not quiet:
        _print_audit(audited)
        say(describe_signer(pem, results))
    say(str(results) if silent else f"report: {results / 'audit.html'}")
    if audited.violations:
        raise Refuted(f"{folder.path}: {audited.verdict}; the results are in {results}")


def _print_audit(audit: "AuditResult") -> None:
    """Print the parts of the statement; the numbers of each silo follow what is claimed and what was measured."""
    from fedtl.report.audit_tables import claims_table, measured_table

    tables = [claims_table(audit), measured_table(audit), None, None]
    for part, table in zip(audit.statement, tables, strict=True):
        print_line(part.title, style="bold")
        for line in part.lines:
            prefix = "refuted: " if line in audit.violations else ""
            out_console.print(f"{prefix}{line}", highlight=False, markup=False)
        if table is not None:
            out_console.print(table)
        out_console.print()


def _run_folder(
    target: str, overrides: list[str] | None, workers: int | None, device: str, silent: bool
) -> "RunFolder":
    """Return the run folder ``target``, or the folder of a new run of the experiment ``target`` with canaries."""
    from fedtl.audit.audit import refuse_unauditable
    from fedtl.experiment.config.load import load_experiment
    from fedtl.experiment.pages import write_run_page
    from fedtl.experiment.run import run
    from fedtl.experiment.run_folder import RunFolder

    if (Path(target) / "experiment.toml").is_file():
        if overrides or workers:
            raise ConfigError(
                f"{target} is the folder of a run, with its own settings; do not pass --set or --workers"
            )
        return RunFolder.open(Path(target).resolve())
    asked, changes = load_experiment(target, overrides or []), list(overrides or [])
    refuse_unauditable(asked)
    if asked.privacy is not None and not asked.audit.canaries:
        changes.append(f"audit.canaries={DEFAULT_CANARIES}")
    if not asked.audit.transcript:
        changes.append(f"audit.transcript={DEFAULT_KEPT_MESSAGES}")
    # What a silo fits after the last round never leaves it, so there is nothing to attack in it.
    changes += [
        change for change in NOTHING_AT_HOME if not any(one.startswith(change[:11]) for one in changes)
    ]
    settings, folder = begin("audit", target, changes, None, None, workers)
    with training_progress(settings.method.name, settings.rounds, folder, silent) as show:
        run(settings, folder, device, lambda end: show.rounds(end.after.round), finishing=show.finishing)
    write_run_page(folder)
    return folder


def _audit_export(path: Path, as_json: bool) -> None:
    """Compute the claims of a site's exported record again. Raises Refuted."""
    from fedtl.audit.export import audit_export

    audited = audit_export(path)
    if as_json:
        print_json(to_plain(audited))
    else:
        for name, study in audited.studies.items():
            print_line(
                f"{audited.silo}: {name}: epsilon {study.epsilon:.4g} at delta {format_delta(study.delta)} for the whole plan; "
                f"{study.charged:.4g} up to round {study.round}"
            )
    for line in audited.violations:
        say(f"refuted: {line}")
    if audited.violations:
        raise Refuted(f"{len(audited.violations)} claims of {path} are refuted")
    say(f"{path}: {len(audited.checks)} checks of the record, no violation; nothing was measured")


def _verify(folder: Path | None, key: str, as_json: bool) -> None:
    """Check the files and the signature of an audit's folder."""
    if folder is None:
        raise ConfigError("fedtl audit verify needs the folder of the audit: fedtl audit verify BUNDLE")
    from fedtl.audit.bundle import NOTICE, fingerprint, verify_bundle

    verified = verify_bundle(folder, key)
    if as_json:
        print_json({**asdict(verified.content), "signer_known": verified.known_signer})
        return
    count, signer = len(verified.content.violations), fingerprint(verified.content.key)
    verdict = f"{count} checks refute its claim" if count else "no violation found"
    print_line(f"{folder}: every file is as it was signed, and there is no other file; {verdict}")
    if verified.known_signer:
        print_line(f"signed by the key that you named, {signer}")
    else:
        print_line(
            f"The signer is NOT verified: the key is in the bundle itself ({signer}), and anybody can create a key and sign. Ask "
            "the auditor for the public key in another way than with this bundle, for example by telephone, and run: "
            f"fedtl audit verify {folder} --key KEY"
        )
    print_line(NOTICE)
