"""The ServerApp of the coordinator. It runs the rounds of a study over Flower's grid, from the last finished round on."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtl.deployment.coordinator.admitted import member_nodes, node_ids
from fedtl.deployment.coordinator.host import host_study
from fedtl.deployment.coordinator.study import SERVER_FOLDER_VARIABLE, HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.event_log import PrintedLine, event_log
from fedtl.deployment.flower_signals import wake_main_thread
from fedtl.federation.flower import FlowerFederation
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.feddf import DistilOnServer

ERRORS = 2  # the number of the file that is this process's standard error


def configure(study: HostedStudy, plan: StudyPlan) -> FederationConfig:
    """Return how the rounds are run. With feddf the coordinator runs the plan's model on public inputs, and needs the libraries for it."""
    if not isinstance(plan.config.server, DistilOnServer):
        return plan.config
    from fedtl.deployment.coordinator.distil import with_public_model

    return with_public_model(study, plan)


@contextmanager
def logged(study: HostedStudy) -> Iterator[None]:
    """
    Write what fedtl logs of a study to ``log-study.jsonl`` in its folder, and to the output of ``fedtl server run``: not to Flower's copy of it,
    which the SuperLink keeps in its database.
    """
    logger = logging.getLogger("fedtl")
    # A file of its own, since Flower copies what sys.stderr writes.
    with open(os.dup(ERRORS), "w", encoding="utf-8", errors="replace") as output:
        handler = logging.StreamHandler(output)
        handler.setFormatter(PrintedLine(f"study {study.path.name}: %(message)s"))
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            with event_log(study.path, ["study"]):
                yield from _said(logger)
        finally:
            logger.removeHandler(handler)


def _said(logger: logging.Logger) -> Iterator[None]:
    """Log the error with which a ServerApp ends, where it does."""
    try:
        yield
    except Exception as error:
        logger.error("its ServerApp ends: %s: %s", type(error).__name__, " ".join(str(error).split()))
        raise


def server_app() -> ServerApp:
    wake_main_thread()
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        folder = Path(os.environ[SERVER_FOLDER_VARIABLE])
        study = HostedStudy(folder / "studies" / Path(str(context.run_config["study"])).name)

        def connect(plan: StudyPlan, former: Iterable[str]) -> FlowerFederation:
            minimum = plan.config.minimum_silos
            nodes, members = partial(node_ids, folder), partial(member_nodes, folder)
            return FlowerFederation(grid, nodes, minimum, plan.deadline, former, plan.grace, members)

        with logged(study):
            host_study(study, connect, configure=configure)

    return app
