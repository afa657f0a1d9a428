"""What every test file may use: one thread, so that bits repeat, and the real data where it is at hand."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import hypothesis
import pytest
import torch

from fedtl.training import threads
from tests.commands import COSTS, fork_instead_of_spawn
from tests.costs import share_costs
from tests.label_doubts import doubt_where, doubts_switch
from tests.model_specs import build_once
from tests.verified import verify_once

# Marks by what a file does, so that ``make quick`` can leave out what takes long (see pyproject.toml for their meaning).
MARKS = {
    "audit": ("audit/",),
    "gpu": ("gpu/",),
    "private": (
        *("privacy/", "experiment/test_private", "experiment/lint/", "training/test_private.py"),
        *("methods/test_restrict.py", "data/test_origins.py"),
    ),
    "process": (
        *("cli/", "deployment/", "simulations/", "simulation/test_processes.py", "simulation/test_ray.py"),
        *("data/test_columns.py", "test_api.py", "test_packaging.py"),
        *(f"report/test_{name}.py" for name in ("answers", "pages", "plots", "privacy_pages", "tables")),
        *(
            f"experiment/test_{name}.py"
            for name in (
                *("tuning", "small_silos", "folds", "best_round", "onboard", "yardsticks", "adapters"),
                *("data_notes", "propose", "final_models", "distil", "transfer"),
            )
        ),
        "training/test_threads.py",
    ),
    "zoo": (
        *(
            f"experiment/test_{name}.py"
            for name in ("run", "engines", "resume", "scoring", "unlabelled", "export_script")
        ),
        *("methods/test_promises.py", "simulation/stacked/"),
        *(
            f"models/test_{name}.py"
            for name in ("dp_norm", "registry", "weights", "roles", "scaled", "timm_zoo")
        ),
    ),
}
# Files whose subject is how workers start, as they do for a user. In all others workers are forked, which takes 0.1 s, not 3.
SPAWNED = ("simulation/test_processes.py",)
# Files whose subject is what privacy costs. In all others the processes of a session share the numbers.
COMPUTED = ("privacy/test_accounting.py", "privacy/test_tradeoff.py")
# Whose tests run private rounds for what comes of them. There a trainer verifies its model in its first round alone; see tests/verified.py.
VERIFIED_ONCE = (
    *("audit/", "deployment/site/", "experiment/", "simulations/", "pages/", "cli/", "report/"),
    *("test_api.py", "privacy/test_units_audit.py", "methods/test_promises.py"),
)
VERIFIED_EACH_ROUND = ("experiment/test_private",)  # of those, the files whose subject it is
# Files whose subject is doubtful labels, whose runs are compared with those of a Python that starts anew, or whose output people read.
LABELS_DOUBTED = (
    *("experiment/test_doubtful_labels.py", "experiment/test_engines.py", "simulation/", "simulations/"),
    *("pages/", "deployment/test_", "test_packaging.py", "gpu/"),
)
MODELS_BUILT = (
    "models/",
    "gpu/",
)  # files whose subject is models; in all others a process builds and tries each of fedtl's once
# What takes longest starts first, so that at the end no worker waits for the other: files that wait for processes beside files that
# compute, then by package. Every file of 20 seconds of a core, or of half a minute of waiting, is named, or is in a package that is.
FIRST = (
    *("deployment/test_deployment.py", "audit/test_broken_privacy.py", "pages/test_federation.py"),
    *("pages/test_tutorials.py", "deployment/test_deploy.py", "methods/test_promises.py"),
    *("pages/test_notebooks.py", "deployment/test_malice.py", "test_api.py", "cli/test_interrupts.py"),
    *("simulation/test_ray.py", "experiment/test_engines.py", "experiment/test_private"),
    *("experiment/test_unlabelled.py", "models/test_dp_norm.py", "experiment/test_tuning.py"),
    *("simulations/test_private_table.py", "privacy/test_accounting.py", "pages/", "audit/", "experiment/"),
    *("deployment/", "simulation/", "report/", "cli/", "privacy/", "models/", "test_packaging.py"),
)
DATA = Path(os.environ.get("FEDTL_DATA") or Path(__file__).resolve().parents[1].parent / "shared" / "data")

gc.disable()  # until all tests are collected: Python would look through a million objects again and again
hypothesis.settings.register_profile("fedtl", deadline=None)  # another process may have the core
hypothesis.settings.load_profile("fedtl")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Bits repeat, and tests that run side by side do not slow each other down."""
    before = torch.get_num_threads()
    threads.set_threads(1)  # memory is kept too, as in a process that trains
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """The folder of a real data set by its name; where it is absent the test is skipped, and says which it was."""

    def folder(name: str) -> Path:
        path = DATA / name
        if not path.is_dir():
            pytest.skip(f"no data set {name!r} under {DATA}; set FEDTL_DATA")
        return path

    return folder


@pytest.fixture(scope="session")
def costs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this session, for all of its processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "costs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module", autouse=True)
def fast_starts(request: pytest.FixtureRequest, costs_folder: Path) -> Iterator[None]:
    """What a test needs and is not about takes little time; see SPAWNED, COMPUTED, VERIFIED_ONCE, LABELS_DOUBTED and MODELS_BUILT."""
    place, switch = _place(request.path), doubts_switch(costs_folder)
    with pytest.MonkeyPatch.context() as patch:
        if not place.startswith(SPAWNED):
            fork_instead_of_spawn(patch)
        if not place.startswith(COMPUTED):
            share_costs(patch, costs_folder)
            patch.setenv(COSTS, str(costs_folder))
        if place.startswith(VERIFIED_ONCE) and not place.startswith(VERIFIED_EACH_ROUND):
            verify_once(patch)
        if not place.startswith(MODELS_BUILT):
            build_once(patch)
        doubt_where(patch, switch)
        if place.startswith(LABELS_DOUBTED):
            switch.touch()
        yield
        switch.unlink(missing_ok=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """
    Import a worker's share of the test files before all of them are collected. pytest compiles a test file once and keeps it; workers
    that collect in step would each compile every file. A file that cannot be imported is reported when it is collected.
    """
    if worker := getattr(session.config, "workerinput", None):
        number, root = int(worker["workerid"].removeprefix("gw")), Path(__file__).parents[1]
        files = sorted(file for where in session.config.args for file in Path(where).rglob("test_*.py"))
        for file in files[number :: worker["workercount"]]:
            with suppress(Exception, pytest.skip.Exception):
                import_module(".".join(file.resolve().relative_to(root).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """From now on Python looks for garbage among the objects that tests make, and not among those of libraries and tests."""
    gc.freeze()
    gc.enable()


@lru_cache
def _place(path: Path) -> str:
    return path.relative_to(Path(__file__).parent).as_posix()


def _turn(item: pytest.Item) -> int:
    place = _place(item.path)
    return next((number for number, start in enumerate(FIRST) if place.startswith(start)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, starts in MARKS.items():
            if _place(item.path).startswith(starts):
                item.add_marker(mark)
    items.sort(key=_turn)
