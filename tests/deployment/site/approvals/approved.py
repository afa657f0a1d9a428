"""What a site signed, and changes of its silo.toml afterwards."""

import shutil

from fedtl.deployment.site.home import Home
from tests.deployment.site.sites import PRIVATE, Site

THREE = {**PRIVATE, "epsilon": 3.0, "sample_rate": 0.2, "steps": 5, "rounds": 4}
SHUT = {"policy__metrics": [], "policy__share_row_count": False}


def copied(site, folder):
    shutil.copytree(site.home.path, folder / "home")
    shutil.copy2(site.file, folder / "plan.toml")
    made = object.__new__(Site)
    made.__dict__.update(site.__dict__, home=Home.open(folder / "home"), file=folder / "plan.toml")
    return made
