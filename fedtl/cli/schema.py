"""``fedtl schema``: the JSON Schema of every file of settings and of results."""

from collections.abc import Callable
from typing import Any

from fedtl.cli.options import FileKind
from fedtl.cli.screen import print_json
from fedtl.errors import ConfigError


def schema(file: FileKind = "experiment") -> None:
    """
    Print the JSON Schema of a file that fedtl reads or writes. Editors check and complete TOML files with it: write it to a file.

    FILE is one of experiment (the default), silo, server, result, history, metrics, comparison, plan, data, audit, onboard,
    transferability.
    history and metrics describe one line: of history.jsonl, and of the file that fedtl watch --metrics writes.

    Example: fedtl schema experiment
    """
    known = file_schemas()
    if file not in known:
        raise ConfigError(f"{file!r} is not a file of fedtl; choose one of {', '.join(known)}")
    print_json(known[file]())


def file_schemas() -> dict[str, Callable[[], dict[str, Any]]]:
    """Return by the name of a file the function that makes its schema."""
    from functools import partial

    from fedtl._util.record_schema import record_schema
    from fedtl.deployment.about import SERVER, site_about
    from fedtl.deployment.coordinator.settings import ServerSettings
    from fedtl.deployment.site.settings import HomeSettings
    from fedtl.experiment.config.json_schema import experiment_schema, settings_schema
    from fedtl.results.audit import AuditResult
    from fedtl.results.comparison import Comparison
    from fedtl.results.data_report import DataReport
    from fedtl.results.onboard import OnboardResult
    from fedtl.results.plan import ExperimentPlan
    from fedtl.results.run import HistoryLine, MetricsLine, RunResult
    from fedtl.results.transferability import Transferability

    results = {
        "result": RunResult,
        "history": HistoryLine,
        "metrics": MetricsLine,
        "comparison": Comparison,
        "plan": ExperimentPlan,
        "data": DataReport,
        "audit": AuditResult,
        "onboard": OnboardResult,
        "transferability": Transferability,
    }
    return {
        "experiment": experiment_schema,
        "silo": partial(settings_schema, HomeSettings, "silo.toml of a site", site_about()),
        "server": partial(settings_schema, ServerSettings, "server.toml of a coordinator", SERVER),
        **{name: partial(record_schema, kind) for name, kind in results.items()},
    }
