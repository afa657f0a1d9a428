"""``fedtl silo``: the commands of an institution."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedtl.cli.options import Json
from fedtl.cli.screen import print_json, print_line, progress_bar, say

if TYPE_CHECKING:
    from fedtl.privacy.hash_chain import ChainLine

app = typer.Typer(
    help="For an institution: decide what may leave, take part in studies, and see what left and what was spent. DIR is the "
    "institution's folder, which init creates.",
    no_args_is_help=True,
)
Dir = Annotated[Path, typer.Argument(metavar="DIR")]


@app.command()
def init(
    folder: Dir,
    name: Annotated[str, typer.Option(help="name of the institution in all studies")],
    server: Annotated[str, typer.Option(help="HOST:PORT of the coordinator")],
) -> None:
    """
    Create the institution's folder DIR with a commented silo.toml and a key pair.

    Example: fedtl silo init clinic --name clinic --server fl.example.org:8443
    """
    from fedtl.deployment.site.home import Home

    home = Home.create(folder, name, server)
    say(f"created {home.path}")
    say(f"1. send {home.path / 'node.key.pub'} to the coordinator; keep node.key here")
    say(f"2. copy the coordinator's ca.crt into {home.path}")
    say(f"3. fill in [data] and [policy] in {home.path / 'silo.toml'}, then run: fedtl silo check {folder}")


@app.command()
def check(folder: Dir, as_json: Json = False) -> None:
    """
    Check data, device, key, certificate, connection, clock, disk and file permissions; print what is wrong.

    Exit code 2: at least one line begins with DO, which says what to do.

    Example: fedtl silo check clinic
    """
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.readiness import check_readiness

    checks = check_readiness(Home.open(folder))
    if as_json:
        print_json([{"what": check.name, "ok": check.ok, "says": check.text} for check in checks])
    else:
        for check in checks:
            print_line(f"{'ok  ' if check.ok else 'DO  '} {check.name}: {check.text}")
    if not all(check.ok for check in checks):
        raise typer.Exit(2)


@app.command()
def rehearse(
    folder: Dir,
    what: Annotated[str, typer.Argument(metavar="BUNDLE")],
    studies: Annotated[int, typer.Option(help="number of studies that the approval is for")] = 1,
    until: Annotated[
        str,
        typer.Option(metavar="DATE", help="last day of the approval, YYYY-MM-DD (UTC); default: in 90 days"),
    ] = "",
    as_json: Json = False,
) -> None:
    """
    Try a plan without data and print the page to sign: who asks, what would leave, what could be learnt.

    BUNDLE is the coordinator's .fab file, or an experiment (which can be rehearsed but not approved).
    Exit code 3: silo.toml does not allow the plan.

    Example: fedtl silo rehearse clinic hospitals.fab
    """
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.privacy_policy import describe_values
    from fedtl.deployment.site.rehearse import rehearse as rehearse_plan

    rehearsal, page = rehearse_plan(Home.open(folder), what, studies, until)
    if as_json:
        print_json(rehearsal.to_json())
    else:
        sys.stdout.write(page.read_text())
    say(f"page: {page.with_suffix('.html')}")
    if rehearsal.refused:
        raise typer.Exit(3)
    if rehearsal.claim.terms is None:
        raise typer.Exit(2)
    for name, text in describe_values(rehearsal.claim.privacy or {}).items():
        say(f"{name}: {text}")
    if rehearsal.request.bundle:
        say(f"to approve: fedtl silo approve {folder} {rehearsal.request.bundle}")


@app.command()
def audit(
    folder: Dir,
    what: Annotated[str, typer.Argument(metavar="[BUNDLE]")] = "",
    as_json: Json = False,
) -> None:
    """
    Test the privacy of a rehearsed plan on the institution's own rows, offline and without cost to the privacy budget.

    BUNDLE is a .fab file or the hash of a rehearsed bundle; without it, the bundle that was rehearsed last.
    Exit code 5: a check failed.

    Example: fedtl silo audit clinic hospitals.fab
    """
    from fedtl._util.records import to_plain
    from fedtl.audit.at_site import audit_site_plan
    from fedtl.deployment.site.home import Home
    from fedtl.errors import Refuted

    with progress_bar("audit", as_json) as show:
        audited, path = audit_site_plan(Home.open(folder), what, show)
    if as_json:
        print_json(to_plain(audited))
    for line in [] if as_json else audited.text:
        print_line(line)
    say(f"saved to {path}; fedtl silo rehearse shows it on the page to sign")
    if audited.violations:
        raise Refuted(
            f"{len(audited.violations)} checks of bundle {audited.bundle[:12]} failed; do not approve it, and report the "
            "failed checks to the maintainers of fedtl"
        )


@app.command()
def approve(
    folder: Dir,
    bundle: Annotated[str, typer.Argument(metavar="HASH")],
    withdraw: Annotated[bool, typer.Option("--withdraw", help="withdraw the approval")] = False,
) -> None:
    """
    Approve a rehearsed bundle: it may run here under the terms on its page and with the installed version of fedtl.

    HASH is the hash of the bundle, which fedtl silo rehearse prints.

    Example: fedtl silo approve clinic 5f3c...
    """
    from fedtl.deployment.site.approve import approve_bundle, withdraw_bundle
    from fedtl.deployment.site.covered import approval_uses
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.status import approved_values

    home = Home.open(folder)
    if withdraw:
        withdraw_bundle(home, bundle)
        say(f"withdrawn: bundle {bundle[:12]} may not run here any more")
        return
    approval = approve_bundle(home, bundle)
    say(f"approved: bundle {approval.bundle[:12]}, plan {approval.plan[:12]}, fedtl {approval.code[:12]}")
    for use in approval_uses(home):
        if use.bundle == approval.bundle:
            say(str(use))
    for name, text in approved_values(home).items():
        say(f"{name}: {text}")


@app.command()
def run(
    folder: Dir,
    part: Annotated[
        str, typer.Option(help="only one process, node or exec, for separate containers; default: both")
    ] = "",
) -> None:
    """
    Connect to the coordinator and take part in approved studies, until stopped with Ctrl-C.

    Example: fedtl silo run clinic
    """
    from fedtl.deployment.site.run import PARTS, run_site
    from fedtl.errors import ConfigError

    if part and part not in PARTS:
        raise ConfigError(f"--part {part!r} is not one of {', '.join(PARTS)}")
    raise typer.Exit(run_site(folder, [part] if part else list(PARTS)))


@app.command()
def status(folder: Dir, as_json: Json = False) -> None:
    """
    Print the round, the last contact, the privacy budget spent and left, the approvals and the bytes sent.

    Example: fedtl silo status clinic
    """
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.status import site_status

    facts = asdict(site_status(Home.open(folder)))
    if as_json:
        print_json(facts)
        return
    budget, privacy, gaps = facts.pop("budget"), facts.pop("privacy"), facts.pop("gaps")
    approvals = facts.pop("approved")
    rows: dict[str, Any] = {key.replace("_", " "): value for key, value in facts.items() if value is not None}
    if budget:
        rows["dataset"] = budget["dataset"]
        spent = f"{budget['spent']:.3f} of {budget['lifetime']:g}, {budget['left']:.3f} left"
        rows["epsilon spent"] = f"{spent} (whole plans; the rounds so far: {budget['charged']:.3f})"
        if budget["new"]:
            rows["dataset"] += (
                " is new; private rounds are refused until: fedtl silo confirm DIR BUNDLE --new-dataset"
            )
        if budget["waiting"]:
            rows["rows"] = (
                f"changed ({budget['waiting'][:12]}); private rounds are refused until: fedtl silo confirm"
            )
    rows |= {f"approval {bundle[:7]}": text for bundle, text in approvals.items()} | privacy
    if gaps:
        rows["MISSING"] = f"{gaps[0]} ({len(gaps)} in all); private rounds are refused; see fedtl silo check"
    for key, value in rows.items():
        text = f"{value:,}" if isinstance(value, int) else str(value)
        print_line(f"{key:>16}  {text}")


@app.command()
def ledger(
    folder: Dir,
    export: Annotated[
        Path | None, typer.Option(help="write the record to this file, for others to verify")
    ] = None,
    as_json: Json = False,
) -> None:
    """
    Print every message, in and out, with time, round and bytes or the reason of its refusal; then every privacy charge.

    Example: fedtl silo ledger clinic --export record.jsonl
    """
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.status import record_and_ledger_lines
    from fedtl.deployment.site.verification import export_lines

    home = Home.open(folder)
    if export is not None:
        count = export_lines(home, export)
        say(f"wrote {count} lines to {export}; anybody can check them with: fedtl silo verify {export}")
        return
    lines = record_and_ledger_lines(home)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        text = _describe(line)
        size = f"{line['bytes']:,}" if "bytes" in line else ""
        study = f"{line.get('study', '')} {line.get('round', '')}".strip()
        columns = f"{line['number']:>6}  {line['at'][:19]}  {line['what']:<12} {study:<20} {size:>14}  {text}"
        print_line(columns.rstrip())


def _describe(line: "ChainLine") -> str:
    """Describe a line of the record or of the privacy ledger in a few words."""
    match line["what"]:
        case "changed":
            change = f" ({line['difference']})" if "difference" in line else ""
            return f"rows changed from {line['before'][:12]} to {line['fingerprint'][:12]}{change}; if that is right: fedtl silo confirm"
        case "opened" | "budget" | "planned" | "charged":
            return f"epsilon {line['epsilon']:.3f}"
        case _:
            return line.get("reason") or ("private" if line.get("private") is True else "")


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="DIR|EXPORT")],
    as_json: Json = False,
) -> None:
    """
    Verify the record: the hash chains are intact, an approval covered every message, every private update was charged.

    DIR is the institution's folder.
    EXPORT is a record written by fedtl silo ledger --export.
    Exit code 3: a message was not covered or not charged.

    Example: fedtl silo verify record.jsonl
    """
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.verification import verify_export, verify_home
    from fedtl.errors import ConfigError

    if not path.exists():
        raise ConfigError(f"{path} does not exist; name an institution's folder or an exported record")
    verification = verify_export(path) if path.is_file() else verify_home(Home.open(path))
    if as_json:
        print_json(asdict(verification))
    else:
        say(
            f"the hash chain of {verification.lines} lines is intact; {verification.updates} updates with {verification.bytes_out:,} bytes left"
        )
        for text in verification.outside:
            say(f"NOT COVERED by an approval: {text}")
        for text in verification.unpaid:
            say(f"NOT CHARGED: {text}")
        if verification.waiting:
            say(f"NOT CONFIRMED: the rows have changed ({verification.waiting[:12]}); see fedtl silo confirm")
        if not verification.outside:
            say("an approval covered every message at the time it left")
        if not verification.unpaid:
            say("every private update was charged to the ledger, and the ledger adds up")
    if verification.outside or verification.unpaid:
        raise typer.Exit(3)


@app.command()
def confirm(
    folder: Dir,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    new_dataset: Annotated[
        bool, typer.Option("--new-dataset", help="data.name is new and its rows are from other people")
    ] = False,
    as_json: Json = False,
) -> None:
    """
    Confirm that changed rows are right, or that a new dataset is about other people. The spent budget stays spent.

    BUNDLE is the .fab file of the plan that was refused because of the rows.

    Example: fedtl silo confirm clinic hospitals.fab
    """
    from fedtl.deployment.site.confirm_rows import AdmittedDataset, admit_new_dataset, confirm_changed_rows
    from fedtl.deployment.site.home import Home

    decide = admit_new_dataset if new_dataset else confirm_changed_rows
    done = decide(Home.open(folder), bundle)
    if as_json:
        print_json(asdict(done))
    elif isinstance(done, AdmittedDataset):
        shared = ", ".join(f"{count} rows are also in {name!r}" for name, count in done.beside.items())
        say(
            f"{done.dataset}: {done.rows} rows, a new dataset with lifetime epsilon {done.lifetime_epsilon:g}"
        )
        say(f"{shared}; recorded in the ledger: you state that these rows are from other people")
    else:
        say(f"{done.rows} rows confirmed, {done.before[:12]} is now {done.now[:12]}; {done.difference}")
        say(f"epsilon spent (unchanged): {done.epsilon_spent:.3f}")


@app.command()
def adopt(
    folder: Dir,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    shared: Annotated[Path, typer.Argument(metavar="SHARED")],
    out: Annotated[Path, typer.Option(help="new folder for the model, which fedtl predict and export take")],
    study: Annotated[
        str, typer.Option(help="name of the study, if this site took part; default: the name of the bundle")
    ] = "",
    as_json: Json = False,
) -> None:
    """
    Build this institution's own model from the shared model of a finished study.

    BUNDLE is the .fab file of the study, SHARED its shared.safetensors.
    A site that took part adds the tensors that it kept; a site that did not trains a head on its own rows.

    Example: fedtl silo adopt clinic hospitals.fab shared.safetensors --out clinic-model
    """
    from fedtl.deployment.site.adopt_model import adopt_model
    from fedtl.deployment.site.home import Home

    home = Home.open(folder)
    adopted = adopt_model(home, bundle, shared, study or bundle.stem, out)
    if as_json:
        print_json(adopted)
        return
    for row, measured in adopted.test.items():
        text = ", ".join(f"{key} {value:.3f}" for key, value in measured.figures.items())
        text += "".join(f"; no {key}: {reason}" for key, reason in measured.absent.items())
        print_line(f"{row:>12}  {text}")
    say(f"use it: fedtl predict {out} --silo {home.settings.name} --input FILE")
