"""Who may import what. The rule is the layout, so it is a test and not a page."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A file may import fedtl modules of the rows above its own, and of its own room.
ROWS = [
    {"errors"},
    {"settings", "tables", "randomness", "state", "durable", "supervise", "machine"},
    {"optimizers", "silonorm", "precision"},
    {"norm"},
    {"partition"},
    {"objective", "messages"},
    {"models", "transfer", "privacy"},
    {"method"},
    {"aggregate", "policy"},
    {"coordinator"},
    {"flower", "hosting"},
    {"metrics"},
    {"silo"},
    {"bench"},
    {"data"},
    {"experiment"},
    {"agreement"},
    {"home", "simulate", "report", "runfolder"},
    {"survey", "stricter"},
    {"examine", "pretrain", "planning", "statistics", "recorder", "start"},
    {"provenance", "notes"},
    {"summary"},
    {"study"},
    {"compare", "predict", "lint", "audit"},
    {"place"},
    {"signing"},
    {"attend", "provision"},
    {"adopt", "confirm", "rehearsal", "siteaudit", "steward", "site", "runsite"},
    {"cli"},
    {"__main__"},
]
# Frameworks stay at the door: who may import them at all.
DOORS = {
    "timm": {"models.libraries"},
    "torchvision": {"models.libraries", "models.compat"},
    "pandas": {"data.table"},
    "sklearn": {"data.digits", "metrics", "audit.membership"},
    "matplotlib": {"report.plots", "report.audit_plots"},
    "jinja2": {"report.page", "report.rehearsal"},
    "typer": {
        "cli.main",
        "cli.screen",
        "cli.train",
        "cli.look",
        "cli.use",
        "cli.server",
        "cli.silo",
        "cli.audit",
    },
    "PIL": {"data.images"},
    "pydantic": {
        *("settings", "data.settings", "experiment.schema", "experiment.wording", "experiment.file"),
        "experiment.mistakes",
        *("agreement", "home.settings", "home.signed", "home.covered", "provision.settings"),
    },
    "flwr": {"flower", "site.node", "site.executor"},
    "cryptography": {"privacy.noise", "audit.bundle", "home.keys", "provision.certificates"},
    "dp_accounting": {"privacy.accounting"},
    "opacus": {"privacy.engine", "privacy.opinion"},
    "ray": {"simulate.cluster"},
}
BLIND = (
    "coordinator",
    "aggregate",
    "messages",
    "partition",
    "method",
    "policy",
    "flower",
    "hosting",
    "provision.admitted",
)  # the server's side: never data, never silo

FILES = {
    ".".join(path.relative_to(ROOT / "fedtl").with_suffix("").parts): path
    for path in sorted((ROOT / "fedtl").rglob("*.py"))
    if path.name != "__init__.py"
}


@cache
def imports(module: str) -> frozenset[str]:
    """Full dotted names, ``from a import b`` as a.b; those for the type checker alone included."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def inside(module: str) -> frozenset[str]:
    """The fedtl modules that a module imports."""
    named = {name.removeprefix("fedtl.") for name in imports(module) if name.startswith("fedtl.")}
    return frozenset(
        other for other in FILES if any(name == other or name.startswith(f"{other}.") for name in named)
    )


def row(module: str) -> int:
    room = module.split(".")[0]
    found = [number for number, rooms in enumerate(ROWS) if room in rooms]
    assert found, f"give {module} a room: add it to a row of ROWS"
    return found[0]


@pytest.mark.parametrize("module", FILES)
def test_each_file_knows_its_room(module):
    for other in inside(module):
        same_room = module.split(".")[0] == other.split(".")[0]
        assert same_room or row(other) < row(module), f"{module} must not import {other}"


@pytest.mark.parametrize("module", FILES)
def test_frameworks_stay_at_the_door(module):
    for package, allowed in DOORS.items():
        used = [name for name in imports(module) if name == package or name.startswith(f"{package}.")]
        assert not used or module in allowed, f"{module} must not import {package}"


@pytest.mark.parametrize("module", BLIND)
def test_the_servers_side_never_reaches_examples(module):
    reached, new = set(), {module}
    while new:
        reached |= new
        new = {other for one in new for other in inside(one)} - reached
    assert not {other for other in reached if other.split(".")[0] in ("silo", "data", "study", "examine")}
