"""``fedtl silo``: the commands of an institution; here those that set it up, connect it, and use a finished study."""

from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli import backup, keys, silo_consent, silo_record
from fedtl.cli.options import Dir, Json, Metrics, open_home
from fedtl.cli.screen import print_json, print_line, print_report_path, progress_bar, say


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
    from fedtl.deployment.site.keys import fingerprint, read_public_key

    home = Home.create(folder, name, server)
    say(f"created {home.path}")
    public = home.path / "node.key.pub"
    say(f"1. send {public} to the coordinator; keep node.key here")
    say(f"   its fingerprint, to compare by telephone: {fingerprint(read_public_key(public))}")
    say(
        f"2. trust the coordinator's certificate and compare its fingerprint: fedtl silo trust {folder} ca.crt"
    )
    say(f"3. fill in [data] and [policy] in {home.path / 'silo.toml'}, then run: fedtl silo check {folder}")


def check(folder: Dir, as_json: Json = False) -> None:
    """
    Check data, device, key, certificate, connection, clock, disk and file permissions; print what is wrong.

    Exit code 2: at least one line begins with DO, which says what to do.

    Example: fedtl silo check clinic
    """
    from fedtl.deployment.site.readiness import check_readiness

    checks = check_readiness(open_home(folder))
    if as_json:
        print_json([{"what": check.name, "ok": check.ok, "says": check.text} for check in checks])
    else:
        for check in checks:
            print_line(f"{'ok  ' if check.ok else 'DO  '} {check.name}: {check.text}")
    if not all(check.ok for check in checks):
        raise typer.Exit(2)


def data(
    folder: Dir,
    out: Annotated[
        Path | None, typer.Option(help="new or empty folder for the page (report.html) and data.json")
    ] = None,
    as_json: Json = False,
) -> None:
    """
    Print what the institution's own rows hold: counts, labels, missing cells, copies, and recommendations.

    No plan is needed, and nothing of it leaves the site. Text columns count as missing here, because a plan declares their categories.

    Example: fedtl silo data clinic --out clinic-data
    """
    from fedtl.cli.inspect import print_data
    from fedtl.deployment.site.own_rows import own_report, sharing, write_own_report
    from fedtl.experiment.onboard_folder import check_new

    home = open_home(folder)
    if out is not None:
        check_new(out)
    report = own_report(home)
    page = write_own_report(home, report, out) if out else None
    print_data(report, as_json)
    for line in [] if as_json else sharing(home):
        print_line(line)
    if page:
        print_report_path(page, as_json)


def run(
    folder: Dir,
    part: Annotated[
        str, typer.Option(help="only one process, node or exec, for separate containers; default: both")
    ] = "",
    metrics: Metrics = None,
) -> None:
    """
    Connect to the coordinator and take part in approved studies, until stopped with Ctrl-C.

    DIR/log.jsonl is the log: one JSON object a line.

    Example: fedtl silo run clinic
    """
    from fedtl.deployment.site.run import PARTS, run_site
    from fedtl.errors import ConfigError

    if part and part not in PARTS:
        raise ConfigError(f"--part {part!r} is not one of {', '.join(PARTS)}")
    raise typer.Exit(run_site(open_home(folder), [part] if part else list(PARTS), metrics))


def adopt(
    folder: Dir,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    shared: Annotated[Path, typer.Argument(metavar="SHARED")],
    out: Annotated[Path, typer.Option(help="new folder for the model, which fedtl predict and export take")],
    study: Annotated[
        str, typer.Option(help="name of the study, if this site took part; default: the name of the bundle")
    ] = "",
    compare: Annotated[
        bool,
        typer.Option(
            help="also train a model on this site's rows alone, and say whether joining helped; nothing leaves"
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """
    Build this institution's own model from the shared model of a finished study.

    BUNDLE is the .fab file of the study, SHARED its shared.safetensors.
    A site that took part adds the tensors that it kept; a site that did not trains a head on its own rows.

    Example: fedtl silo adopt clinic hospitals.fab shared.safetensors --out clinic-model
    """
    from fedtl.deployment.site.adopt_model import adopt_model

    home = open_home(folder)
    with progress_bar("training the model of this site alone", as_json) as show:
        adopted = adopt_model(home, bundle, shared, study or bundle.stem, out, show, compare)
    if as_json:
        print_json(adopted)
        return
    for row, measured in adopted.test.items():
        text = ", ".join(f"{key} {value:.3f}" for key, value in measured.figures.items())
        text += "".join(f"; no {key}: {reason}" for key, reason in measured.absent.items())
        print_line(f"{row:>12}  {text}")
    if adopted.joining:
        print_line(f"{'joining':>12}  {adopted.joining}")
    say(f"use it: fedtl predict {out} --silo {home.settings.name} --input FILE")


app = typer.Typer(
    help="For an institution: decide what may leave, take part in studies, and see what left and what was spent. DIR is the "
    "institution's folder, which init creates.",
    no_args_is_help=True,
)
for command in (
    *(init, check, data, silo_consent.rehearse, silo_consent.audit, silo_consent.approve, run),
    *(silo_record.status, silo_record.watch, silo_record.ledger, silo_record.verify),
    *(silo_consent.confirm, adopt),
):
    app.command()(command)
app.command("rotate")(keys.rotate_own)
app.command("trust")(keys.trust)
app.command("backup")(backup.back_up_silo)
app.command("restore")(backup.restore_silo)
