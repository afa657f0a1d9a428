"""The ServerApp of the coordinator, which Flower starts for each study."""

from fedtl.deployment.coordinator.server_app import server_app

app = server_app()
