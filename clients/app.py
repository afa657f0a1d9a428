"""The ClientApp of a site, which Flower starts for each message."""

from pathlib import Path

from fedtl.deployment.site.client_app import client_app

app = client_app(Path(__file__).parents[1])
