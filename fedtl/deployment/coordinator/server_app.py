"""The ServerApp of the coordinator. It runs the rounds of a study over Flower's grid, from the last finished round on."""

import logging
import os
import sys
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
from fedtl.deployment.event_log import event_log
from fedtl.federation.flower import FlowerFederation
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.feddf import DistilOnServer


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
    logger, handler = logging.getLogger("fedtl"), logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter(f"study {study.path.name}: %(message)s"))
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with event_log(study.path, ["study"]):
            yield
    except Exception as error:
        logger.error("its ServerApp ends: %s: %s", type(error).__name__, " ".join(str(error).split()))
        raise
    finally:
        logger.removeHandler(handler)


def server_app() -> ServerApp:
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
