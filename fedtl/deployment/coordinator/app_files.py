"""
The Python files of an app bundle, which Flower starts. They only name functions of the installed fedtl, whose code a site approves
separately; the folders ``server`` and ``clients`` of the repository hold the same files.
"""

APP_FILES = {
    "server/__init__.py": '"""The coordinator\'s part of the app bundle."""\n',
    "server/app.py": '''"""The ServerApp of the coordinator, which Flower starts for each study."""

from fedtl.deployment.coordinator.server_app import server_app

app = server_app()
''',
    "clients/__init__.py": '"""The sites\' part of the app bundle."""\n',
    "clients/app.py": '''"""The ClientApp of a site, which Flower starts for each message."""

from pathlib import Path

from fedtl.deployment.site.client_app import client_app

app = client_app(Path(__file__).parents[1])
''',
}
