"""A study over sites in this process: their homes, a bundle that they approved, and its rounds."""

from safetensors.torch import load_file

from fedtl._util.randomness import address
from fedtl.deployment.site.answer_round import answer_round
from fedtl.deployment.site.approve import approve_bundle
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.rehearse import rehearse
from fedtl.federation.rounds import ServerState, run_rounds
from tests.real_processes import Federation


def make_site(folder, name, **settings):
    """A site with the secret that it has in a simulation of seed 0, without differential privacy unless ``settings`` say so."""
    Home.create(folder / name, name, "localhost:1")
    given = {
        "policy__privacy": None,
        "policy__share_row_count": True,
        "policy__minimum_silos": 1,
        "policy__roles": ["body", "aux", "norm", "head", "stats"],
    }
    Federation.change(folder / name / "silo.toml", **{**given, **settings})
    (folder / name / "secret").write_bytes(address("secret", 0, name).to_bytes(8, "big"))
    return Home.open(folder / name)


def approve(bundle, *homes):
    """Rehearse and approve the bundle at each site; return the text of the last page."""
    for home in homes:
        _, page = rehearse(home, bundle.file)
        approve_bundle(home, bundle.hash)
    return page.read_text()


class InProcess:
    """The sites as a server reaches them, without a wire."""

    def __init__(self, bundle, homes):
        self.homes = {home.settings.name: home for home in homes}
        self.file = bundle.folder / "app" / "experiments" / f"{bundle.name}.toml"

    def silos(self):
        return sorted(self.homes)

    def ask(self, task, silos):
        for name in silos:
            yield answer_round(Home.open(self.homes[name].path), lambda: self.file, lambda: task)


def run_study(bundle, *homes):
    """Do all rounds and return the last one."""
    info = bundle.info("study")
    start = ServerState(0, load_file(bundle.folder / "start.safetensors"))
    *_, last = run_rounds(InProcess(bundle, homes), info.config, start, info.roles)
    return last
