"""``fedtl silo``: what an institution agrees to. Rehearse a plan, audit it, approve it, confirm its rows."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.options import Dir, Json, open_home
from fedtl.cli.screen import print_json, print_line, progress_bar, say


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
    from fedtl.deployment.site.privacy_policy import describe_values
    from fedtl.deployment.site.rehearse import rehearse as rehearse_plan

    rehearsal, page = rehearse_plan(open_home(folder), what, studies, until)
    if as_json:
        print_json(rehearsal.to_json())
    else:
        sys.stdout.write(page.read_text())
    say(f"page: {page.with_suffix('.html')}")
    if rehearsal.refused:
        raise typer.Exit(3)
    if rehearsal.claim.terms is None:
        raise typer.Exit(2)
    for name, text in describe_values(rehearsal.to_json()["privacy"] or {}).items():
        say(f"{name}: {text}")
    if rehearsal.request.bundle:
        say(f"to approve: fedtl silo approve {folder} {rehearsal.request.bundle}")


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
    from fedtl.errors import Refuted

    with progress_bar("audit", as_json) as show:
        audited, path = audit_site_plan(open_home(folder), what, show)
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
    from fedtl.deployment.site.status import approved_values

    home = open_home(folder)
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


def confirm(
    folder: Dir,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    new_dataset: Annotated[
        bool,
        typer.Option("--new-dataset", help="data.name is a new dataset, whose rows are from other people"),
    ] = False,
    as_json: Json = False,
) -> None:
    """
    Confirm that changed rows are right, or that a new dataset is about other people. The spent budget stays spent.

    BUNDLE is the .fab file of the plan that was refused because of the rows.

    Example: fedtl silo confirm clinic hospitals.fab
    """
    from fedtl.deployment.site.confirm_rows import AdmittedDataset, admit_new_dataset, confirm_changed_rows

    decide = admit_new_dataset if new_dataset else confirm_changed_rows
    done = decide(open_home(folder), bundle)
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
