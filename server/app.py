"""The ServerApp of the coordinator. It runs the rounds of a study over Flower's grid, from the last finished round on."""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtl.deployment.coordinator.admitted import node_ids
from fedtl.deployment.coordinator.host import host_study
from fedtl.deployment.coordinator.study import SERVER_FOLDER_VARIABLE, HostedStudy
from fedtl.federation.flower import FlowerFederation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    folder = Path(os.environ[SERVER_FOLDER_VARIABLE])
    study = HostedStudy(folder / "studies" / Path(str(context.run_config["study"])).name)
    host_study(
        study, lambda minimum, deadline: FlowerFederation(grid, lambda: node_ids(folder), minimum, deadline)
    )
