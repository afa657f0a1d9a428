"""The layout as a test: which package may import which, which file may import a framework, and how large things may be."""

import ast
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import the packages of the rows above its own, and its own package.
ROWS = [
    {"errors", "_util"},
    {"results"},
    {"tasks"},
    {"report"},
    {"models", "data"},
    {"messages"},
    {"methods"},
    {"privacy", "federation"},
    {"training"},
    {"simulation"},
    {"experiment"},
    {"deployment"},
    {"audit"},
    {"cli", "api"},
    {"__main__"},
]
# Frameworks stay at the door: the only modules that may import each.
DOORS = {
    "timm": {"models.libraries"},
    "torchvision": {"_util.torchvision_import", "data.torchvision_sets"},
    "pandas": {
        "data.codes",
        "data.typed_rows",
        *(
            "data.frame",
            "data.table",
            "data.cells",
            "data.huggingface",
            "data.labels_alone",
            "data.manifest",
            "data.series",
            "data.sql",
        ),
        *(
            "experiment.embed",
            "experiment.propose.column_facts",
            "experiment.propose.tables",
            "experiment.propose.series",
        ),
        "api.frames",
        "api.results",
        "api.audits",
        "api.audit_frames",
    },
    "openpyxl": {"data.excel_files"},
    "sklearn": {
        "data.words",
        "data.preprocess",
        "data.shift",
        "data.target_encoding",
        "tasks.classification",
        "tasks.regression",
        "audit.attacks.membership",
        *("experiment.page_facts", "experiment.feature_maps"),
    },
    "matplotlib": {
        *("report.plots", "report.gain_plots", "report.audit_plots"),
        *("report.transfer_plots", "report.onboard_plots", "report.interpolation_plots"),
        *("report.data_plots", "report.calibration_plots", "report.feature_plots", "report.helper_plots"),
        "report.heat_colours",
    },
    "jinja2": {"report.html"},
    "typer": {
        *(
            f"cli.{name}"
            for name in (
                "main",
                "options",
                "train",
                "inspect",
                "lists",
                "models",
                "server",
                "audit",
                "onboard",
            )
        ),
        *("cli.silo", "cli.silo_consent", "cli.silo_record", "cli.backup", "cli.keys"),
        *("cli.watch", "cli.new", "cli.study_transfer"),
    },
    "PIL": {"data.colours", "data.huggingface", "data.pictures"},
    "pydicom": {"data.dicom"},
    "nibabel": {"data.nifti"},
    "tomllib": {"_util.toml_text"},
    "duckdb": {"data.parquet_query"},
    "pydantic": {
        *(
            "_util.settings",
            "data.settings",
            "models.builtin",
            "models.sequences",
            "models.unet",
            "simulation.settings",
            "deployment.plan",
        ),
        "privacy.ledger_lines",
        *("deployment.site.settings", "deployment.site.signed", "deployment.site.covered"),
        "deployment.site.uncovered",
        "deployment.site.egress_lines",
        "deployment.coordinator.settings",
        *(f"experiment.config.{name}" for name in ("schema", "home_schema", "model_schema", "messages")),
        *(f"experiment.config.{name}" for name in ("settings_file", "repair", "call", "resolve")),
    },
    "flwr": {
        *("federation.flower", "federation.flower_messages", "federation.flower_pulls"),
        *("federation.flower_replies", "deployment.coordinator.superexec"),
        *("deployment.coordinator.object_parts", "deployment.coordinator.removed_tasks"),
        *("deployment.site.supernode", "deployment.site.superexec", "deployment.site.client_app"),
        *("deployment.coordinator.superlink", "deployment.coordinator.bounded_superlink"),
        *("deployment.coordinator.pack", "deployment.coordinator.server_app"),
    },
    "cryptography": {"privacy.noise", "audit.bundle", "deployment.site.keys", "deployment.certificates"},
    "dp_accounting": {"privacy.accounting"},
    "opacus": {"privacy.per_sample.hooks", "privacy.prv"},
    "datasets": {"data.huggingface", "data.hub_sets"},
    "tokenizers": {"data.tokens", "models.text_folder"},
    "transformers": {"models.text_folder"},
    "ray": {"simulation.ray"},
}
# What the coordinator runs. It never reaches examples, nor anything that reads them.
COORDINATOR = (
    *("federation.rounds", "federation.flower", "federation.policy", "methods.server", "methods.base"),
    *("messages", "models.roles", "deployment.coordinator.host", "deployment.coordinator.admitted"),
    "deployment.coordinator.server_app",
)
EXAMPLES = ("data", "training.silo", "experiment")
# A plan that distils on public inputs is the one case in which the coordinator runs models; it is imported for such a plan only.
DISTILS = "deployment.coordinator.distil"

LINES, FUNCTION, METHODS, ARGUMENTS = 300, 40, 8, 7
# The proof of the vocabulary: a method that keeps state is one file with its paper, formula and law.
SHORT_METHODS, METHOD_LINES = ("ditto", "mrmtl", "apfl", "scaffold", "fedala", "moon"), 50
UNTYPED = 60  # uses of dict[str, Any]: content of files and libraries, never a result
# Folders of tests that no package of fedtl answers for, each with what it tests.
OTHER_TESTS = {
    "deployment/site/approvals": "fedtl.deployment.site, as far as approvals go",
    "gpu": "all that differs on a CUDA device",
    "pages": "docs",
    "privacy/ledger": "fedtl.privacy.ledger",
    "simulation/stacked": "fedtl.simulation.stacked",
    "simulations": "simulations",
}
# Larger than the rule, each with its reason.
LARGE_FILES: dict[str, str] = {}
LARGE_FUNCTIONS = {
    "experiment.config.privacy_checks.doubtful": "one message after the other",
    "report.rehearsal.details": "a table of rows",
    "report.rehearsal._privacy": "a table of rows",
}
LARGE_CLASSES = {
    "api.results.FinishedComparison": "one property for each table",
    "deployment.coordinator.superlink.SuperLink": "the calls of one service",
    "deployment.site.home.Home": "the paths of one folder",
    "experiment.run_folder.RunFolder": "the files of one folder",
    "tasks.base.LearningTask": "all that differs from task to task",
    "tasks.base.TaskSettings": "the keys that tasks are made of",
    "tasks.classification.Classification": "a task",
    "tasks.multilabel.MultiLabel": "a task",
    "tasks.ordinal.Ordinal": "a task",
    "tasks.regression.Regression": "a task",
    "tasks.segmentation.Segmentation": "a task",
    "tasks.survival.Survival": "a task",
}
MANY_ARGUMENTS = {
    "models.attention.forward": "torch's own arguments of an attention layer",
    "api.audits.audit": "as on the command line, and the rows",
    "api.runs.run": "as on the command line, and the values that Python alone can pass",
    "api.runs.compare": "each setting of a comparison is an argument, as on the command line",
    "cli.audit.audit": "each option of a command is an argument",
    "cli.onboard.onboard": "each option of a command is an argument",
    "cli.server.bundle": "each option of a command is an argument",
    "cli.train.run": "each option of a command is an argument",
    "cli.train.compare": "each option of a command is an argument",
    "cli.transferability.transferability": "each option of a command is an argument",
}

FILES = {
    ".".join(path.relative_to(ROOT / "fedtl").with_suffix("").parts): path
    for path in sorted((ROOT / "fedtl").rglob("*.py"))
    if path.name != "__init__.py"
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


@cache
def imports(module: str) -> frozenset[str]:
    """Full dotted names, ``from a import b`` as a.b; those for the type checker alone included."""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def inside(module: str) -> frozenset[str]:
    """The fedtl modules that a module imports."""
    names = {name.removeprefix("fedtl.") for name in imports(module) if name.startswith("fedtl.")}
    return frozenset(
        other for other in FILES if any(name == other or name.startswith(f"{other}.") for name in names)
    )


def package(module: str) -> str:
    return module.split(".")[0]


def row(module: str) -> int:
    rows = [number for number, packages in enumerate(ROWS) if package(module) in packages]
    assert rows, f"{module} is in no package of ROWS: add it to a row"
    return rows[0]


# Slow are those that parse all of fedtl: the first of them takes two seconds.
@pytest.mark.slow
def test_a_package_imports_only_packages_above_it():
    wrong = [
        f"{module} imports {other}"
        for module in FILES
        for other in sorted(inside(module))
        if package(module) != package(other) and not row(other) < row(module)
    ]
    assert not wrong, wrong


@pytest.mark.slow
def test_frameworks_stay_at_the_door():
    wrong = [
        f"{module} imports {name}"
        for module in FILES
        for name in sorted(imports(module))
        if name.split(".")[0] in DOORS and module not in DOORS[name.split(".")[0]]
    ]
    assert not wrong, wrong


@pytest.mark.slow
def test_every_door_is_used():
    unused = [
        f"{module} does not import {name}"
        for name, modules in DOORS.items()
        for module in sorted(modules)
        if not any(name in (other, other.split(".")[0]) for other in imports(module) | _by_name(module))
    ]
    assert not unused, f"{unused}; take them off the list"


def _by_name(module: str) -> set[str]:
    """The modules that it imports with ``import_module``."""
    return {
        node.args[0].value
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module"
    }


def test_every_folder_of_tests_is_a_package_of_fedtl_or_has_a_reason():
    folders = {str(path.parent.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")}
    others = {folder for folder in folders if not (ROOT / "fedtl" / folder / "__init__.py").is_file()}
    assert others - {"."} == set(OTHER_TESTS)


def test_the_methods_that_keep_state_are_short():
    lines = {name: len(FILES[f"methods.{name}"].read_text().splitlines()) for name in SHORT_METHODS}
    assert not (long := {name: count for name, count in lines.items() if count >= METHOD_LINES}), long


def test_few_tables_are_untyped():
    found = [
        f"{module}:{number}"
        for module, path in FILES.items()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "dict[str, Any]" in line
    ]
    assert len(found) < UNTYPED, found
    assert not [one for one in found if one.startswith("results.")]


@pytest.mark.slow
def test_the_coordinator_never_reaches_examples():
    for module in COORDINATOR:
        reached: set[str] = set()
        waiting = {module}
        while waiting:
            reached |= waiting
            waiting = {other for one in waiting for other in inside(one)} - reached - {DISTILS}
        seen = [other for other in sorted(reached) if other.startswith(EXAMPLES)]
        assert not seen, f"{module} reaches {seen}"


@pytest.mark.slow
def test_sizes_are_kept_or_have_a_reason():
    files, functions, classes, arguments = {}, {}, {}, {}
    for module in FILES:
        if (lines := len(FILES[module].read_text().splitlines())) > LINES:
            files[module] = lines
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef):
                name = f"{module}.{node.name}"
                if (lines := _body_lines(node)) > FUNCTION:
                    functions[name] = lines
                if (count := _arguments(node)) > ARGUMENTS:
                    arguments[name] = count
            elif isinstance(node, ast.ClassDef):
                public = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name[0] != "_"]
                if len(public) > METHODS:
                    classes[f"{module}.{node.name}"] = len(public)
    for what, large, allowed in (
        (f"files of over {LINES} lines", files, LARGE_FILES),
        (f"functions of over {FUNCTION} lines", functions, LARGE_FUNCTIONS),
        (f"classes of over {METHODS} public methods", classes, LARGE_CLASSES),
        (f"functions of over {ARGUMENTS} arguments", arguments, MANY_ARGUMENTS),
    ):
        surplus = {name: size for name, size in large.items() if name not in allowed}
        assert not surplus, f"{what}: {surplus}; make them smaller, or add a reason to the list"
        assert not (gone := allowed.keys() - large.keys()), (
            f"{what}: {gone} are small now; take them off the list"
        )


def _body_lines(node: ast.FunctionDef) -> int:
    """Without the docstring."""
    end = node.end_lineno or node.lineno
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return end - ((first.end_lineno or node.lineno) if documented else node.lineno)


def _arguments(node: ast.FunctionDef) -> int:
    given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return len([one for one in given if one.arg not in ("self", "cls")])


def test_no_link_is_committed():
    """It would lead to a place on the machine where it was made."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert [line for line in listed.splitlines() if line.startswith("120000")] == []
