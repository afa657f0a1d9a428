"""The wheel of this checkout, built without a network."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "runs")


def build_wheel(place: Path) -> Path:
    """Return the wheel, built in ``place`` from a copy, so that no build folder is left in the checkout."""
    copy = place / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    words = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q", "-w", place, copy]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *words], check=True, timeout=300)
    (built,) = place.glob("*.whl")
    return built
