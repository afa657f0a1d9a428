"""``fedtl silo``: the institution's side."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fedtl.cli.screen import Json, out_console, print_json, say

app = typer.Typer(
    help="An institution's side: what it allows, what left, what was spent.", no_args_is_help=True
)
Dir = Annotated[Path, typer.Argument(metavar="DIR", help="the institution's folder")]
Hash = Annotated[str, typer.Argument(metavar="HASH", help="of a bundle, as rehearse prints it")]


@app.command()
def init(
    folder: Dir,
    name: Annotated[str, typer.Option(help="the institution, as the coordinator admits it")],
    server: Annotated[str, typer.Option(help="HOST:PORT of the coordinator's gate")],
) -> None:
    """Make a new folder: a commented silo.toml and the node's key. The public half goes to the coordinator."""
    from fedtl.deployment.site.home import Home

    home = Home.create(folder, name, server)
    say(f"made {home.path}")
    say(f"1. send {home.path / 'node.key.pub'} to the coordinator; node.key never leaves")
    say(f"2. put the coordinator's ca.crt into {home.path}")
    say(f"3. write [data] and [policy] in {home.path / 'silo.toml'}, then: fedtl silo check {folder}")


@app.command()
def check(folder: Dir, as_json: Json = False) -> None:
    """Data, device, key, certificate, connection, clock, disk, file modes: each in order, or what to do."""
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.readiness import check_readiness

    checks = check_readiness(Home.open(folder))
    if as_json:
        print_json([{"what": check.name, "ok": check.ok, "says": check.text} for check in checks])
    else:
        for check in checks:
            text = f"{'ok  ' if check.ok else 'DO  '} {check.name}: {check.text}"
            out_console.print(text, highlight=False, markup=False, soft_wrap=True)
    if not all(check.ok for check in checks):
        raise typer.Exit(2)


@app.command()
def rehearse(
    folder: Dir,
    what: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="the coordinator's .fab file, or an experiment")
    ],
    studies: Annotated[int, typer.Option(help="how many studies the approval would be for")] = 1,
    until: Annotated[
        str, typer.Option(metavar="DATE", help="its last day, YYYY-MM-DD in UTC; default: 90 days from now")
    ] = "",
    as_json: Json = False,
) -> None:
    """One page for a person to sign: who asks, what would leave, what stays, what could be learnt, the hashes."""
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
    for name, value in describe_values(rehearsal.claim.privacy or {}).items():
        say(f"{name}: {value}")
    if rehearsal.request.bundle:
        say(f"to approve: fedtl silo approve {folder} {rehearsal.request.bundle}")


@app.command()
def audit(
    folder: Dir,
    what: Annotated[
        str,
        typer.Argument(
            metavar="[BUNDLE]", help="a .fab file, or a rehearsed bundle's hash; default: rehearsed last"
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Test a rehearsed plan with canaries on the own rows, offline; costs no privacy budget. Exit 5: a check failed."""
    from fedtl.audit.at_site import audit as audit_plan
    from fedtl.cli.screen import steps
    from fedtl.deployment.site.home import Home
    from fedtl.errors import Refuted

    with steps("audit", as_json) as show:
        facts, path = audit_plan(Home.open(folder), what, show)
    if as_json:
        print_json(facts)
    for line in [] if as_json else facts["text"]:
        out_console.print(line, highlight=False, markup=False, soft_wrap=True)
    say(f"kept: {path}; fedtl silo rehearse shows it on the page")
    if facts["violations"]:
        raise Refuted(
            f"{len(facts['violations'])} checks of bundle {facts['bundle'][:12]} failed; do not approve it, and report "
            "them to whoever maintains this fedtl"
        )


@app.command()
def approve(
    folder: Dir,
    bundle: Hash,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="take the approval back")] = False,
) -> None:
    """Let a rehearsed bundle run here, under the terms on its page and with the fedtl that is installed."""
    from fedtl.deployment.site.approve import approve_bundle, withdraw_bundle
    from fedtl.deployment.site.covered import approval_uses
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.status import approved_values

    home = Home.open(folder)
    if withdraw:
        withdraw_bundle(home, bundle)
        say(f"{bundle[:12]} runs here no more")
        return
    approval = approve_bundle(home, bundle)
    say(f"approved: bundle {approval.bundle[:12]}, plan {approval.plan[:12]}, fedtl {approval.code[:12]}")
    for use in approval_uses(home):
        if use.bundle == approval.bundle:
            say(str(use))
    for name, value in approved_values(home).items():
        say(f"{name}: {value}")


@app.command()
def run(
    folder: Dir,
    part: Annotated[str, typer.Option(help="node or exec alone, for a container each; default: both")] = "",
) -> None:
    """Connect to the server and take part in what was approved, until stopped."""
    from fedtl.deployment.site.run import PARTS, run_site
    from fedtl.errors import ConfigError

    if part and part not in PARTS:
        raise ConfigError(f"--part {part!r} is not one of {', '.join(PARTS)}")
    raise typer.Exit(run_site(folder, [part] if part else list(PARTS)))


@app.command()
def status(folder: Dir, as_json: Json = False) -> None:
    """Round, last contact, privacy budget spent and left, bytes out."""
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
        rows["epsilon spent"] = (
            f"{spent}; whole plans, of which rounds so far come to {budget['charged']:.3f}"
        )
        if budget["new"]:
            rows["dataset"] += " is new; no private round until fedtl silo confirm DIR BUNDLE --new-dataset"
        if budget["waiting"]:
            rows["rows"] = f"changed ({budget['waiting'][:12]}); no private round until fedtl silo confirm"
    rows |= {f"approval {bundle[:7]}": text for bundle, text in approvals.items()} | privacy
    if gaps:
        rows["FORGOTTEN"] = (
            f"{gaps[0]} ({len(gaps)} in all); no private round until it is put right: fedtl silo check"
        )
    for key, value in rows.items():
        text = f"{value:,}" if isinstance(value, int) else str(value)
        out_console.print(f"{key:>16}  {text}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def ledger(
    folder: Dir,
    export: Annotated[
        Path | None, typer.Option(help="write the record as lines that anybody can check")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every message in and out: when, which round, how many bytes, or why it was refused; then what was charged."""
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.status import record_and_ledger_lines
    from fedtl.deployment.site.verification import export_lines

    home = Home.open(folder)
    if export is not None:
        say(
            f"{export_lines(home, export)} lines in {export}; anybody can check them: fedtl silo verify {export}"
        )
        return
    lines = record_and_ledger_lines(home)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        says = _says(line)
        size = f"{line['bytes']:,}" if "bytes" in line else ""
        where = f"{line.get('study', '')} {line.get('round', '')}".strip()
        text = f"{line['number']:>6}  {line['at'][:19]}  {line['what']:<12} {where:<20} {size:>14}  {says}"
        out_console.print(text.rstrip(), highlight=False, markup=False, soft_wrap=True)


def _says(line: dict[str, Any]) -> str:
    """What a line of the record or of the privacy ledger is about, in a few words."""
    match line["what"]:
        case "changed":
            how = f" ({line['difference']})" if "difference" in line else ""
            return f"rows {line['before'][:12]} are now {line['fingerprint'][:12]}{how}: fedtl silo confirm, if that is right"
        case "opened" | "budget" | "planned" | "charged":
            return f"epsilon {line['epsilon']:.3f}"
        case _:
            return line.get("reason") or ("private" if line.get("private") is True else "")


@app.command()
def verify(
    where: Annotated[Path, typer.Argument(metavar="DIR|EXPORT", help="the folder, or an exported record")],
    as_json: Json = False,
) -> None:
    """Are the chains intact, was each message covered by an approval, and was all that is private paid for?"""
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.verification import verify_export, verify_home
    from fedtl.errors import ConfigError

    if not where.exists():
        raise ConfigError(
            f"{where} is neither an institution's folder nor an exported record; it is not there"
        )
    found = verify_export(where) if where.is_file() else verify_home(Home.open(where))
    if as_json:
        print_json(asdict(found))
    else:
        say(
            f"the chain of {found.lines} lines is intact; {found.updates} updates, {found.bytes_out:,} bytes left"
        )
        for text in found.outside:
            say(f"NOT COVERED by an approval: {text}")
        for text in found.unpaid:
            say(f"UNPAID: {text}")
        if found.waiting:
            say(f"WAITING: the rows have changed ({found.waiting[:12]}), and nobody has confirmed them")
        if not found.outside:
            say("every message that left was covered by the approval in force at that time")
        if not found.unpaid:
            say("every private update was charged to the ledger, and the ledger adds up")
    if found.outside or found.unpaid:
        raise typer.Exit(3)


@app.command()
def confirm(
    folder: Dir,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="the .fab file of the plan that was refused")
    ],
    new_dataset: Annotated[
        bool, typer.Option("--new-dataset", help="data.name is new, and its rows are other people's")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say that changed rows are right, or that a new dataset is of other people. What was spent stays spent."""
    from fedtl.deployment.site.confirm_rows import AdmittedDataset, admit_new_dataset, confirm_changed_rows
    from fedtl.deployment.site.home import Home

    decide = admit_new_dataset if new_dataset else confirm_changed_rows
    done = decide(Home.open(folder), bundle)
    if as_json:
        print_json(asdict(done))
    elif isinstance(done, AdmittedDataset):
        both = ", ".join(f"{count} of them are also in {name!r}" for name, count in done.beside.items())
        say(
            f"new dataset {done.dataset!r}: {done.rows} rows, lifetime epsilon {done.lifetime_epsilon:g}; {both}"
        )
        say("the ledger now says that you declared these to be other people's rows")
    else:
        say(f"{done.rows} rows: {done.before[:12]} is now {done.now[:12]}; {done.difference}")
        say(f"epsilon spent so far stays spent: {done.epsilon_spent:.3f}")


@app.command()
def adopt(
    folder: Dir,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="the study's .fab file")],
    shared: Annotated[Path, typer.Argument(metavar="SHARED", help="the study's shared.safetensors")],
    out: Annotated[Path, typer.Option(help="a new folder, for fedtl predict and export")],
    study: Annotated[
        str, typer.Option(help="its name, where this site took part; default: the bundle's")
    ] = "",
    as_json: Json = False,
) -> None:
    """Use the shared model here: with what this site kept, or, where it never trained, with its few own rows."""
    from fedtl.deployment.site.adopt_model import adopt_model
    from fedtl.deployment.site.home import Home

    home = Home.open(folder)
    result = adopt_model(home, bundle, shared, study or bundle.stem, out).to_json()
    if as_json:
        print_json(result)
        return
    for row, figures in result["test"].items():
        lacking = figures.pop("absent", {})
        text = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
        text += "".join(f"; no {key}: {reason}" for key, reason in lacking.items())
        out_console.print(f"{row:>12}  {text}", highlight=False, markup=False, soft_wrap=True)
    say(f"fedtl predict {out} --silo {home.settings.name} --input FILE")
