"""``fedtl silo``: what left an institution, under which approval, and what it cost."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtl.cli.options import Dir, Json, open_home
from fedtl.cli.run_folder import only_watches
from fedtl.cli.screen import print_json, print_line, say

if TYPE_CHECKING:
    from fedtl.deployment.site.verification import Verification
    from fedtl.privacy.hash_chain import ChainLine


def status(folder: Dir, as_json: Json = False) -> None:
    """
    Print the round, the last contact, the privacy budget spent and left, the approvals and the bytes sent.

    Example: fedtl silo status clinic
    """
    from fedtl.deployment.site.status import site_status

    facts = asdict(site_status(open_home(folder)))
    if as_json:
        print_json(facts)
        return
    budget, privacy, gaps = facts.pop("budget"), facts.pop("privacy"), facts.pop("gaps")
    approvals = facts.pop("approved")
    rows: dict[str, int | str] = {
        key.replace("_", " "): value for key, value in facts.items() if value is not None
    }
    if budget:
        rows["dataset"] = budget["dataset"]
        spent = f"{budget['spent']:.3f} of {budget['lifetime']:g}, {budget['left']:.3f} left"
        rows["epsilon spent"] = f"{spent} (whole plans; the rounds so far: {budget['charged']:.3f})"
        if budget["new"]:
            rows["dataset"] = (
                f"{budget['dataset']} is new; private rounds are refused until: fedtl silo confirm DIR BUNDLE --new-dataset"
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
    from fedtl.deployment.site.status import record_and_ledger_lines
    from fedtl.deployment.site.verification import export_lines

    home = open_home(folder)
    if export is not None:
        count = export_lines(home, export)
        say(f"wrote {count} lines to {export}; to check them: fedtl silo verify {export}")
        return
    lines = record_and_ledger_lines(home)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        print_line(_columns(line))
    if not lines:
        say("no message has come in or left, and nothing was charged")


def watch(
    folder: Dir,
    last: Annotated[int, typer.Option(min=0, help="lines of the record to begin with")] = 5,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two updates of the display")] = 2.0,
) -> None:
    """
    Print the last lines of the record, and then each message as it comes in or leaves, until stopped with Ctrl-C.

    Example: fedtl silo watch clinic
    """
    import time

    from fedtl.deployment.site.follow import follow_record

    only_watches()
    for line in follow_record(open_home(folder), last, lambda: time.sleep(every)):
        print_line(_columns(line.as_json()))


def _columns(line: "ChainLine") -> str:
    """Return a line of the record or of the privacy ledger as a line of a table."""
    size = f"{line['bytes']:,}" if "bytes" in line else ""
    in_a_round = line["what"] != "verdict" and "asked" not in line
    study = f"{line.get('study') or ''} {line.get('round') or '' if in_a_round else ''}".strip()
    columns = f"{line['number']:>6}  {line['at'][:19]}  {line['what']:<12} {study:<20} {size:>14}  {_describe(line)}"
    return columns.rstrip()


def _describe(line: "ChainLine") -> str:
    """Describe a line of the record or of the privacy ledger in a few words."""
    match line["what"]:
        case "changed":
            change = f" ({line['difference']})" if "difference" in line else ""
            return f"rows changed from {line['before'][:12]} to {line['fingerprint'][:12]}{change}; if that is right: fedtl silo confirm"
        case "opened" | "budget" | "planned" | "charged":
            return f"epsilon {line['epsilon']:.3f}"
        case "verdict":
            return str(line["verdict"])
        case "received" if "asked" in line:
            return "asks whether joining helped"
        case _:
            return line.get("reason") or ("private" if line.get("private") is True else "")


def verify(
    path: Annotated[Path, typer.Argument(metavar="DIR|EXPORT")],
    seen: Annotated[
        Path | None,
        typer.Option(metavar="ROUNDS", help="the rounds of this site, which fedtl server rounds wrote"),
    ] = None,
    as_json: Json = False,
) -> None:
    """
    Verify the record: the hash chains are intact, an approval covered every message, every private update was charged.

    DIR is the institution's folder.
    EXPORT is a record written by fedtl silo ledger --export. It cannot show that lines at its end were cut off; --seen can.
    Exit code 3: a message was not covered or not charged, or the coordinator has an update that the record lacks.

    Example: fedtl silo verify record.jsonl --seen rounds.json
    """
    from fedtl.deployment.site.verification import verify_export, verify_home
    from fedtl.errors import ConfigError

    if not path.exists():
        raise ConfigError(f"{path} does not exist; name an institution's folder or an exported record")
    verification = verify_export(path, seen) if path.is_file() else verify_home(open_home(path), seen)
    if as_json:
        print_json(asdict(verification))
    else:
        _say_verification(verification, compared=seen is not None, alone=path.is_file())
    if verification.faults:
        raise typer.Exit(3)


def _say_verification(verification: "Verification", compared: bool, alone: bool) -> None:
    """``compared``: with the coordinator's rounds; ``alone``: whether nothing but the record shows where it ends."""
    say(
        f"the hash chain of {verification.lines} lines is intact; {verification.updates} updates with {verification.bytes_out:,} bytes left"
    )
    for text in verification.outside:
        say(f"NOT COVERED by an approval: {text}")
    for text in verification.unpaid:
        say(f"NOT CHARGED: {text}")
    for text in verification.unrecorded:
        say(f"NOT RECORDED: the coordinator has an update of {text}")
    if verification.waiting:
        say(f"NOT CONFIRMED: the rows have changed ({verification.waiting[:12]}); see fedtl silo confirm")
    if not verification.lines:
        say("the record is empty, so there is nothing to verify")
        return
    if not verification.outside:
        say("an approval covered every message at the time it left")
    if not verification.unpaid:
        say("every private update was charged to the ledger, and the ledger adds up")
    if compared:
        if not verification.unrecorded:
            say("the record holds every update that the coordinator has")
    elif alone:
        say(
            f"the record ends at {verification.until}; only the coordinator's list shows whether later lines were removed: fedtl server rounds, "
            "then --seen"
        )
