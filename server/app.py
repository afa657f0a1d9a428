"""What runs at the coordinator: a study's rounds over Flower's grid, from wherever they had come to."""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtl.deployment.coordinator.admitted import nodes
from fedtl.deployment.coordinator.study import LOCATION, HostedStudy, host
from fedtl.federation.flower import FlowerFederation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    folder = Path(os.environ[LOCATION])
    study = HostedStudy(folder / "studies" / Path(str(context.run_config["study"])).name)
    host(study, lambda minimum, deadline: FlowerFederation(grid, lambda: nodes(folder), minimum, deadline))
