"""Which private names of flwr fedtl uses, and whether the installed flwr has them."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, Status
from flwr.supercore import constant
from flwr.supercore.routers.health.router import router as health
from flwr.superlink.routers.control.router import router as control
from flwr.superlink.routers.fleet.router import router as fleet

import fedtl
from fedtl.deployment.coordinator import reply_size, superlink
from fedtl.deployment.coordinator.nginx import SUPERNODE_CALLS
from fedtl.deployment.flower_names import CONTROL_CALLS, HEALTH_CALL, PRIVATE_NAMES, PUBLIC_MODULES
from fedtl.deployment.site import gate

FEDTL = Path(fedtl.__file__).parent


def test_the_installed_flwr_has_every_private_name_that_is_used():
    moved = []
    for entry in PRIVATE_NAMES:
        module, _, name = entry.partition(":")
        try:
            getattr(import_module(module), name)
        except (ImportError, AttributeError):
            moved.append(entry)
    assert not moved, f"flwr moved or removed: {moved}"


def used(path):
    """The names that a file imports from private modules of flwr, and those that it reads from such a module, as module:name."""
    tree, modules, names = ast.parse(path.read_text()), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {
                alias.asname or alias.name: alias.name
                for alias in node.names
                if alias.name.startswith("flwr.")
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr."):
            for alias in node.names:
                if inspect.ismodule(getattr(import_module(node.module), alias.name)):
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                else:
                    names.add(f"{node.module}:{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            names.add(f"{modules[node.value.id]}:{node.attr}")
    return {name for name in names if name.partition(":")[0] not in PUBLIC_MODULES}


def test_every_private_name_that_is_used_is_listed():
    files = [*FEDTL.rglob("*.py"), *(FEDTL.parent / folder / "app.py" for folder in ("server", "clients"))]
    found = set().union(*(used(path) for path in files if "flwr" in path.read_text()))
    by_hand = {  # set through a loop over modules, or as a text
        "flwr.supercore.heartbeat:HEARTBEAT_DEFAULT_INTERVAL",
        "flwr.supernode.fleet_http_connection:HEARTBEAT_DEFAULT_INTERVAL",
        "flwr.supercore.constant:FLEET_HTTP_PUBLIC_KEY_HEADER",
        "flwr.supercore.sql_mixin:SQLITE_PRAGMAS",
        "flwr.superlink.grid.http_grid:inflate_object_from_contents",
    }
    assert found | by_hand == set(PRIVATE_NAMES)


@pytest.mark.parametrize(("router", "calls"), [(control, CONTROL_CALLS), (fleet, SUPERNODE_CALLS)])
def test_the_superlink_has_every_call(router, calls):
    assert set(calls) <= {route.path.rpartition("/")[2] for route in router.routes}


def test_every_call_is_listed_and_the_superlink_says_that_it_is_healthy():
    written = set(re.findall(r'self\._call\(\s*"([a-z-]+)"', inspect.getsource(superlink)))
    assert written == set(CONTROL_CALLS)
    assert HEALTH_CALL in {route.path for route in health.routes}


def test_the_constants_are_flowers():
    assert gate.KEY_HEADER == constant.FLEET_HTTP_PUBLIC_KEY_HEADER
    assert superlink.UNREGISTERED == constant.NodeStatus.UNREGISTERED
    assert superlink.ONLINE == constant.NodeStatus.ONLINE
    assert superlink.FINISHED == Status.FINISHED
    assert superlink.MEDIA_TYPE == import_module("flwr.supercore.protobuf.constants").PROTOBUF_MEDIA_TYPE
    assert reply_size.CHUNK_BYTES == FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
