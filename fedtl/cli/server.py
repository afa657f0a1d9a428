"""``fedtl server``: the commands of the coordinator."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli import backup, keys, study_transfer
from fedtl.cli.options import Exp, Json, Metrics, Set
from fedtl.cli.run_folder import only_watches
from fedtl.cli.screen import print_json, print_line, say
from fedtl.errors import ConfigError

app = typer.Typer(
    help="For the coordinator of a federation: admit institutions, build bundles for approval, run studies. DIR is the "
    "coordinator's folder, which init creates.",
    no_args_is_help=True,
)
Dir = Annotated[Path, typer.Argument(metavar="DIR")]
SiteName = Annotated[
    str, typer.Option("--name", help="name of the site; default: the comment in its key file")
]


@app.command()
def init(
    folder: Dir,
    host: Annotated[str, typer.Option(help="host name by which institutions reach this server")],
    listen: Annotated[
        str, typer.Option(help="address on which nginx listens; 0.0.0.0:8443 accepts other machines")
    ] = "127.0.0.1:8443",
    port: Annotated[int, typer.Option(help="port of the SuperLink, on 127.0.0.1 only")] = 8000,
) -> None:
    """
    Create the coordinator's folder DIR with a certificate authority, a certificate and the configuration of nginx.

    Example: fedtl server init srv --host fl.example.org --listen 0.0.0.0:8443
    """
    from fedtl.deployment.certificates import certificate_fingerprint
    from fedtl.deployment.coordinator.server import create_server

    create_server(folder, host, listen, port)
    authority = folder / "tls" / "ca.crt"
    say(f"created {folder}; send {authority} to the institutions, and store tls/ca.key on another machine")
    say(f"its fingerprint, to compare by telephone: {certificate_fingerprint(authority)}")


@app.command()
def admit(
    folder: Dir,
    key: Annotated[Path, typer.Argument(metavar="SITE.pub")],
    name: SiteName = "",
) -> None:
    """
    Allow a site to connect. SITE.pub is its public key, node.key.pub.

    Example: fedtl server admit srv clinic.pub
    """
    from fedtl.deployment.coordinator.sites import admit_site
    from fedtl.deployment.site.keys import fingerprint

    site = admit_site(folder, key, name)
    say("admitted" if site.node else "admitted; takes effect when the server starts")
    say(f"fingerprint of its key: {fingerprint(site.key)}; compare it with the site's by telephone")


@app.command()
def expel(folder: Dir, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """
    Never allow the key of a site to connect again. NAME is the name under which it was admitted.

    To pause a site, use suspend: Flower never accepts an expelled key again.

    Example: fedtl server expel srv clinic
    """
    from fedtl.deployment.coordinator.sites import expel_site

    expel_site(folder, name)
    say(f"{name} may not connect any more")


@app.command()
def suspend(folder: Dir, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """
    Do not ask a site for updates, from the next round on, until readmit. Its key stays valid.

    Example: fedtl server suspend srv clinic
    """
    from fedtl.deployment.coordinator.sites import suspend_site

    suspend_site(folder, name, True)
    say(f"{name} is suspended; to ask it again: fedtl server readmit {folder} {name}")


@app.command()
def readmit(folder: Dir, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """
    Ask a suspended site for updates again, from the next round on.

    Example: fedtl server readmit srv clinic
    """
    from fedtl.deployment.coordinator.sites import suspend_site

    suspend_site(folder, name, False)
    say(f"{name} is asked again from the next round on")


@app.command()
def bundle(
    folder: Dir,
    experiment: Exp,
    name: Annotated[str, typer.Option(help="name of the bundle; default: the name of the experiment")] = "",
    set_: Set = None,
    shape: Annotated[
        str, typer.Option(help="shape of one input, such as 1,28,28; default: read from the data")
    ] = "",
    classes: Annotated[str, typer.Option(help="labels of a shared head, with commas between them")] = "",
    columns: Annotated[
        str,
        typer.Option(
            help="columns of a table, such as age,chol,sex=f|m; default: data.columns, or read from the data"
        ),
    ] = "",
    dp_ready: Annotated[
        bool, typer.Option("--dp-ready", help="use a model that sites can train with differential privacy")
    ] = False,
) -> None:
    """
    Build the bundle that institutions rehearse and approve, and print its hash.

    EXP is a TOML file.
    The bundle, a .fab file, holds the settings of the experiment and the two small Flower apps.

    Example: fedtl server bundle srv hospitals.toml
    """
    from fedtl.data.columns import parse_columns, with_declared_columns
    from fedtl.deployment.coordinator.bundle import build_bundle
    from fedtl.deployment.coordinator.declared_schema import load_without_rows
    from fedtl.deployment.coordinator.settings import load_server_settings
    from fedtl.experiment.config.load import load_experiment

    load_server_settings(folder)
    try:
        sizes = tuple(int(size) for size in shape.split(",")) if shape else ()
    except ValueError as error:
        raise ConfigError(
            f"--shape {shape!r}: write whole numbers with commas between them, as in 1,28,28"
        ) from error
    labels = tuple(classes.split(",")) if classes else ()
    if shape or columns:
        settings = load_without_rows(experiment, set_ or [], folder)
    else:
        settings = load_experiment(experiment, set_ or [])
    if columns:
        declared = parse_columns(columns, settings.data)
        settings = settings.model_copy(update={"data": with_declared_columns(settings.data, declared)})
        sizes = (sum(len(column.inputs) for column in declared),)
    built = build_bundle(folder / "bundles", name or Path(experiment).stem, settings, sizes, labels, dp_ready)
    print_line(built.hash)
    say(f"send {built.file} to the institutions; each rehearses it and approves this hash")


@app.command()
def run(
    folder: Dir,
    part: Annotated[
        str, typer.Option(help="only one process, link, exec or gate, for separate containers; default: all")
    ] = "",
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="run nginx here")] = True,
    metrics: Metrics = None,
) -> None:
    """
    Run the server (SuperLink, SuperExec and nginx) until stopped. Interrupted studies continue.

    DIR/log.jsonl is the log: one JSON object a line.

    Example: fedtl server run srv
    """
    from fedtl.deployment.coordinator.server import PARTS, run_server

    if part and part not in PARTS:
        raise ConfigError(f"--part {part!r} is not one of {', '.join(PARTS)}")
    parts = [part] if part else [process for process in PARTS if gate or process != "gate"]
    raise typer.Exit(run_server(folder, parts, metrics))


@app.command()
def start(
    folder: Dir,
    name: Annotated[str, typer.Argument(metavar="BUNDLE")],
    study: Annotated[str, typer.Option(help="name of the study; default: the name of the bundle")] = "",
    now: Annotated[bool, typer.Option("--now", help="start it even if another study runs")] = False,
    wait: Annotated[
        float, typer.Option(min=0.0, help="seconds to wait for a server that is just starting")
    ] = 0.0,
) -> None:
    """
    Start a study, or continue it after its last finished round. BUNDLE is the name of a bundle.

    While another study runs it waits in a queue, and starts when that one is done or stopped.

    Example: fedtl server start srv hospitals
    """
    from fedtl.deployment.coordinator.studies import start_study
    from fedtl.deployment.coordinator.superlink import SuperLink

    if wait:
        SuperLink(folder).wait_until_healthy(wait)
    started = start_study(folder, name, study or name, now)
    state = "started" if started.queued_since is None else "queued until the study that runs has ended"
    say(f"{state}; its folder is {started.path}; follow it with: fedtl server status {folder}")


@app.command()
def stop(
    folder: Dir,
    study: Annotated[str, typer.Option(help="stop only this study; it can be started again")] = "",
) -> None:
    """
    Stop the server, or with --study one study.

    Example: fedtl server stop srv --study hospitals
    """
    from fedtl.deployment.coordinator.server import stop_server
    from fedtl.deployment.coordinator.studies import stop_study

    if study:
        stop_study(folder, study)
        say(
            f"study {study} is stopped; it continues with: fedtl server start {folder} BUNDLE --study {study}"
        )
        return
    stop_server(folder)
    say("the server has stopped; its studies continue with: fedtl server run")


@app.command()
def status(folder: Dir, as_json: Json = False) -> None:
    """
    Print whether the server runs, the admitted sites and the round of each study.

    Example: fedtl server status srv
    """
    from fedtl.cli.study_lines import print_study
    from fedtl.deployment.coordinator.status import server_status

    facts = server_status(folder)
    if as_json:
        print_json(asdict(facts))
        return
    print_line(
        f"{'running' if facts.running else 'not running'}; listens on {facts.listen}; {facts.disk}; "
        f"{'; '.join(facts.certificates)}"
    )
    for name, text in facts.admitted.items():
        print_line(f"site {name}: {text}")
    for name, study in facts.studies.items():
        print_study(name, study)


@app.command()
def watch(
    folder: Dir,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two updates of the display")] = 2.0,
) -> None:
    """
    Print a line for each round of every study until all are done or stopped. Where there is none yet, it waits for one.

    Exit code 4: a study was stopped. So a script can call: fedtl server watch DIR || send-mail

    Example: fedtl server watch srv
    """
    import time

    from fedtl.deployment.coordinator.follow import STOPPED, follow_studies, started_studies
    from fedtl.deployment.coordinator.settings import load_server_settings

    load_server_settings(folder)
    only_watches()
    if not started_studies(folder):
        say(f"{folder} has no study yet; waiting until one is started: fedtl server start {folder} BUNDLE")
    stopped: dict[str, bool] = {}
    for event in follow_studies(folder, lambda: time.sleep(every)):
        print_line(str(event))
        stopped[event.study] = event.what == STOPPED
    if any(stopped.values()):
        raise typer.Exit(4)


app.command("renew")(keys.renew)
app.command("rotate")(keys.rotate_site)
app.command("rounds")(backup.rounds)
app.command("withdraw")(backup.withdraw)
app.command("transferability")(study_transfer.study_transfer)
app.command("backup")(backup.back_up_server)
app.command("restore")(backup.restore_server)
