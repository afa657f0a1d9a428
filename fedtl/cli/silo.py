"""``fedtl silo``: the institution's side."""

import sys
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
    from fedtl.deployment.site.status import check as check_home

    lines = check_home(Home.open(folder))
    if as_json:
        print_json([{"what": name, "ok": ok, "says": text} for name, ok, text in lines])
    else:
        for name, ok, text in lines:
            out_console.print(
                f"{'ok  ' if ok else 'DO  '} {name}: {text}", highlight=False, markup=False, soft_wrap=True
            )
    if not all(ok for _, ok, _ in lines):
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
    from fedtl.deployment.site.privacy_policy import told
    from fedtl.deployment.site.rehearse import rehearse as rehearse_plan

    facts, page = rehearse_plan(Home.open(folder), what, studies, until)
    if as_json:
        print_json(facts)
    else:
        sys.stdout.write(page.read_text())
    say(f"page: {page.with_suffix('.html')}")
    if facts["refused"]:
        raise typer.Exit(3)
    if facts["terms"] is None:
        raise typer.Exit(2)
    for name, its in told(facts["privacy"] or {}).items():
        say(f"{name}: {its}")
    if facts["bundle"]:
        say(f"to approve: fedtl silo approve {folder} {facts['bundle']}")


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
    from dataclasses import asdict

    from fedtl.audit.at_site import audit_site_plan
    from fedtl.cli.screen import steps
    from fedtl.deployment.site.home import Home
    from fedtl.errors import Refuted

    with steps("audit", as_json) as show:
        result, path = audit_site_plan(Home.open(folder), what, show)
    if as_json:
        print_json(asdict(result))
    for line in [] if as_json else result.text:
        out_console.print(line, highlight=False, markup=False, soft_wrap=True)
    say(f"kept: {path}; fedtl silo rehearse shows it on the page")
    if result.violations:
        raise Refuted(
            f"{len(result.violations)} checks of bundle {result.bundle[:12]} failed; do not approve it, and report "
            "them to whoever maintains this fedtl"
        )


@app.command()
def approve(
    folder: Dir,
    bundle: Hash,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="take the approval back")] = False,
) -> None:
    """Let a rehearsed bundle run here, under the terms on its page and with the fedtl that is installed."""
    from fedtl.deployment.site import approvals
    from fedtl.deployment.site.covered import standings
    from fedtl.deployment.site.home import Home
    from fedtl.deployment.site.rehearse import sign
    from fedtl.deployment.site.status import numbers

    home = Home.open(folder)
    if withdraw:
        approvals.withdraw(home.approved, bundle)
        home.record.note("withdrawn", bundle=bundle)
        say(f"{bundle[:12]} runs here no more")
        return
    one = sign(home, bundle)
    say(f"approved: bundle {one.bundle[:12]}, plan {one.plan[:12]}, fedtl {one.code[:12]}")
    for standing in standings(home):
        if standing.bundle == one.bundle:
            say(str(standing))
    for name, its in numbers(home).items():
        say(f"{name}: {its}")


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
    from fedtl.deployment.site.status import status as status_of

    facts = status_of(Home.open(folder))
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
    from fedtl.deployment.site.status import export as export_record
    from fedtl.deployment.site.status import history

    home = Home.open(folder)
    if export is not None:
        say(
            f"{export_record(home, export)} lines in {export}; anybody can check them: fedtl silo verify {export}"
        )
        return
    lines = history(home)
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
    from fedtl.deployment.site.status import verify_export, verify_home
    from fedtl.errors import ConfigError

    if not where.exists():
        raise ConfigError(
            f"{where} is neither an institution's folder nor an exported record; it is not there"
        )
    facts = verify_export(where) if where.is_file() else verify_home(Home.open(where))
    if as_json:
        print_json(facts)
    else:
        say(
            f"the chain of {facts['lines']} lines is intact; {facts['updates']} updates, {facts['bytes_out']:,} bytes left"
        )
        for text in facts["outside"]:
            say(f"NOT COVERED by an approval: {text}")
        for text in facts["unpaid"]:
            say(f"UNPAID: {text}")
        if facts["waiting"]:
            say(f"WAITING: the rows have changed ({facts['waiting'][:12]}), and nobody has confirmed them")
        if not facts["outside"]:
            say("every message that left was covered by the approval in force at that time")
        if not facts["unpaid"]:
            say("whatever left as private was charged, and the ledger's arithmetic holds")
    if facts["outside"] or facts["unpaid"]:
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
    from fedtl.deployment.site.confirm_rows import admit
    from fedtl.deployment.site.confirm_rows import confirm as confirm_rows
    from fedtl.deployment.site.home import Home

    facts = (admit if new_dataset else confirm_rows)(Home.open(folder), bundle)
    if as_json:
        print_json(facts)
    elif new_dataset:
        both = ", ".join(f"{count} rows stand in {name!r} as well" for name, count in facts["beside"].items())
        say(
            f"{facts['dataset']}: {facts['rows']} rows, a new dataset with lifetime epsilon {facts['lifetime_epsilon']:g}"
        )
        say(f"{both}; written into the ledger: you say that these are other people's rows")
    else:
        say(f"{facts['rows']} rows: {facts['before'][:12]} is now {facts['now'][:12]}; {facts['difference']}")
        say(f"epsilon spent, and still spent: {facts['epsilon_spent']:.3f}")


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
    from fedtl.deployment.site.adopt_model import adopt as adopt_model
    from fedtl.deployment.site.home import Home

    home = Home.open(folder)
    result = adopt_model(home, bundle, shared, study or bundle.stem, out)
    if as_json:
        print_json(result)
        return
    for row, figures in result["test"].items():
        lacking = figures.pop("absent", {})
        text = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
        text += "".join(f"; no {key}: {reason}" for key, reason in lacking.items())
        out_console.print(f"{row:>12}  {text}", highlight=False, markup=False, soft_wrap=True)
    say(f"fedtl predict {out} --silo {home.settings.name} --input FILE")
