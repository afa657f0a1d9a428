"""``fedtl server``: the coordinator's side."""

from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.screen import Exp, Json, Set, out_console, print_json, say
from fedtl.errors import ConfigError

app = typer.Typer(
    help="The coordinator's side: certificates, admitted keys, bundles, studies.", no_args_is_help=True
)
Dir = Annotated[Path, typer.Argument(metavar="DIR", help="the coordinator's folder")]
SiteName = Annotated[str, typer.Option("--name", help="default: the comment in the key's file")]


@app.command()
def init(
    folder: Dir,
    host: Annotated[str, typer.Option(help="the name that institutions reach the gate by")],
    listen: Annotated[
        str, typer.Option(help="where the gate listens; 0.0.0.0:8443 opens it to other machines")
    ] = "127.0.0.1:8443",
    port: Annotated[int, typer.Option(help="of the SuperLink, on 127.0.0.1 only")] = 8000,
) -> None:
    """Make a new folder: an own certificate authority, a certificate, the gate's configuration."""
    from fedtl.deployment.coordinator.server import create_server

    create_server(folder, host, listen, port)
    say(
        f"made {folder}; give {folder / 'tls' / 'ca.crt'} to the institutions, and keep tls/ca.key off this machine"
    )


@app.command()
def renew(folder: Dir) -> None:
    """A new certificate for the gate, signed by the same authority; restart the server afterwards."""
    from fedtl.deployment.certificates import create_server_certificate
    from fedtl.deployment.coordinator.settings import load_server_settings

    create_server_certificate(folder / "tls", load_server_settings(folder).host)
    say(
        f"made {folder / 'tls' / 'server.pem'}; restart: fedtl server stop {folder}, then fedtl server run {folder}"
    )


@app.command()
def admit(
    folder: Dir,
    key: Annotated[Path, typer.Argument(metavar="SITE.pub", help="a site's node.key.pub")],
    name: SiteName = "",
) -> None:
    """Let a site connect, by its public key."""
    from fedtl.deployment.coordinator.sites import admit_site

    registered = admit_site(folder, key, name)
    say("admitted" if registered else "admitted; the SuperLink is told when it runs")


@app.command()
def expel(folder: Dir, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Let a site connect no more."""
    from fedtl.deployment.coordinator.sites import expel_site

    expel_site(folder, name)
    say(f"{name} is out")


@app.command()
def bundle(
    folder: Dir,
    experiment: Exp,
    name: Annotated[str, typer.Option(help="of the bundle; default: the experiment's")] = "",
    set_: Set = None,
    shape: Annotated[
        str, typer.Option(help="of one input, such as 1,28,28; default: read from the data")
    ] = "",
    classes: Annotated[str, typer.Option(help="the labels of a shared head, comma-separated")] = "",
    columns: Annotated[
        str,
        typer.Option(
            help="of a table, such as age,chol,sex=f|m; default: data.columns, or read from the data"
        ),
    ] = "",
    dp_ready: Annotated[
        bool, typer.Option("--dp-ready", help="a model that a site can train privately where it wishes to")
    ] = False,
) -> None:
    """Build what the institutions approve: two thin apps and the agreement; prints its hash."""
    from fedtl.data.columns import named, parsed
    from fedtl.deployment.coordinator.bundle import build_bundle
    from fedtl.deployment.coordinator.settings import load_server_settings
    from fedtl.experiment.config.load import load

    load_server_settings(folder)
    try:
        sizes = tuple(int(size) for size in shape.split(",")) if shape else ()
    except ValueError as error:
        raise ConfigError(
            f"--shape {shape!r}: whole numbers with commas between them, such as 1,28,28"
        ) from error
    labels = tuple(classes.split(",")) if classes else ()
    settings = load(experiment, set_ or [])
    if columns:
        told = parsed(columns)
        settings = settings.model_copy(update={"data": named(settings.data, told)})
        sizes = (sum(len(column.inputs) for column in told),)
    made = build_bundle(folder / "bundles", name or Path(experiment).stem, settings, sizes, labels, dp_ready)
    out_console.print(made.hash, highlight=False)
    say(f"send {made.file} to the institutions; each rehearses it and approves this hash")


@app.command()
def run(
    folder: Dir,
    part: Annotated[
        str, typer.Option(help="link, exec or gate alone, for a container each; default: all")
    ] = "",
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="nginx, here")] = True,
) -> None:
    """SuperLink, SuperExec and gate, until stopped; studies that were interrupted go on."""
    from fedtl.deployment.coordinator.server import PARTS, run_server

    if part and part not in PARTS:
        raise ConfigError(f"--part {part!r} is not one of {', '.join(PARTS)}")
    parts = [part] if part else [name for name in PARTS if gate or name != "gate"]
    raise typer.Exit(run_server(folder, parts))


@app.command()
def start(
    folder: Dir,
    name: Annotated[str, typer.Argument(metavar="BUNDLE", help="the name of a bundle")],
    study: Annotated[str, typer.Option(help="the study's name; default: the bundle's")] = "",
) -> None:
    """Begin a study, or go on with it from its last round."""
    from fedtl.deployment.coordinator.studies import start_study

    started = start_study(folder, name, study or name)
    say(f"started; its folder is {started.path}; fedtl server status {folder}")


@app.command()
def stop(
    folder: Dir, study: Annotated[str, typer.Option(help="one study only; it can be started again")] = ""
) -> None:
    """Stop a study, or the whole server."""
    from fedtl.deployment.coordinator.server import stop_server
    from fedtl.deployment.coordinator.studies import stop_study

    if study:
        stop_study(folder, study)
    else:
        stop_server(folder)


@app.command()
def status(folder: Dir, as_json: Json = False) -> None:
    """Whether it runs, who is admitted, and how far each study is."""
    from dataclasses import asdict

    from fedtl.deployment.coordinator.studies import server_status

    facts = server_status(folder)
    if as_json:
        print_json(asdict(facts))
        return
    out_console.print(
        f"{'runs' if facts.running else 'does not run'}; gate on {facts.listen}; "
        f"certificate for {facts.certificate_days_left:.0f} days",
        highlight=False,
    )
    for name, text in facts.admitted.items():
        out_console.print(f"site {name}: {text}", highlight=False, markup=False)
    for name, study in facts.studies.items():
        where = "done" if study.done else "at work" if study.at_work else "not at work: fedtl server start"
        where += f" (stopped: {study.stopped})" if study.stopped else ""
        out_console.print(f"study {name}: round {study.round} of {study.rounds}, {where}", highlight=False)
        for reason in study.left_out.values():
            out_console.print(f"  left out: {reason}", highlight=False, markup=False, soft_wrap=True)
