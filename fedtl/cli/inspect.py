"""What can be known without training: ``fedtl show``, ``lint`` and the tables of names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from fedtl.cli.screen import Exp, Json, Set, out_console, print_json, print_table, say

if TYPE_CHECKING:
    from fedtl.results.plan import ExperimentPlan


def show(experiment: Exp, set_: Set = None, as_json: Json = False) -> None:
    """What an experiment would do: its settings, and for every tensor what it is and whether it leaves a silo."""
    from fedtl.experiment.config.load import dump, load
    from fedtl.experiment.lint.dry_run import examine
    from fedtl.experiment.plan import experiment_plan
    from fedtl.experiment.privacy_plan import warnings
    from fedtl.simulation.shared_store import temporary

    settings = load(experiment, set_ or [], sound=False)
    with temporary() as shelf:
        found = examine(settings, shelf)
    plan = experiment_plan(settings, found)
    if as_json:
        print_json(plan)
    else:
        title = f"{settings.method.name} on {settings.model.name}"
        notes = [text for its in found.guarantees.values() for text in warnings(its)]
        _print_plan(plan, dump(settings), title, notes)
    if found.refused:
        raise typer.Exit(2)


def _print_plan(plan: "ExperimentPlan", toml: str, title: str, warnings: Sequence[str]) -> None:
    from fedtl.report.tables import privacy_table

    out_console.print(toml, highlight=False, markup=False)
    columns = ["tensor", "role", "shape", "bytes", "", *(["comes from"] if plan.privacy else [])]
    table = Table(*columns, title=title)
    for tensor in plan.tensors:
        table.add_row(
            tensor.name,
            tensor.role,
            " x ".join(map(str, tensor.shape)) or "scalar",
            f"{tensor.bytes:,}",
            "[red]leaves[/]" if tensor.leaves else "[green]stays[/]",
            *([tensor.label] if tensor.label else []),
        )
    out_console.print(table)
    out_console.print(
        f"{plan.bytes_up:,} bytes leave a silo each round and as many come in; {len(plan.training)} silos train."
    )
    for text in plan.refused:
        say(f"refused: {text}")
    if plan.privacy is None:
        out_console.print(
            "Without differential privacy: what leaves can tell about a silo's rows.", style="yellow"
        )
        return
    if plan.privacy.silos:
        out_console.print(privacy_table(plan.privacy))
    for text in warnings:
        say(f"warning: {text}")


def lint(experiment: Exp, set_: Set = None, as_json: Json = False) -> None:
    """Everything that makes an experiment's privacy untrue (exit code 2), or worth a question, at once; and what holds."""
    from dataclasses import asdict

    from fedtl.experiment.config.load import read
    from fedtl.experiment.lint.findings import lint as look_through

    found = look_through(read(experiment, set_ or []))
    if as_json:
        print_json(asdict(found))
    else:
        for kind, texts, style in (
            ("unsound", found.unsound, "red"),
            ("ask", found.doubtful, ""),
            ("holds", found.holds, "green"),
        ):
            for text in texts:
                out_console.print(
                    f"{kind}: {text}", style=style, highlight=False, markup=False, soft_wrap=True
                )
    if found.unsound:
        raise typer.Exit(2)


def methods(as_json: Json = False) -> None:
    """The federated methods, what each shares, and its paper; and the loss terms that may stand beside any of them."""
    from fedtl.experiment.config.resolve import describe
    from fedtl.methods.base import METHODS
    from fedtl.methods.registry import TERMS

    rows = [
        {
            "name": name,
            "shares": sorted(map(str, make().shared)),
            "settings": describe(make),
            "about": (make.__doc__ or "").strip(),
        }
        for name, make in METHODS.items()
    ]
    terms = [
        {"name": name, "settings": describe(make), "about": (make.__doc__ or "").strip()}
        for name, make in TERMS.items()
    ]
    if as_json:
        print_json({"methods": rows, "terms": terms})
        return
    print_table("methods", rows, False)
    print_table('terms: [method] terms = [{ name = "coral" }]', terms, False)


def models(as_json: Json = False) -> None:
    """The built-in models; any timm or "torchvision/<name>" classification model besides."""
    from fedtl.models.registry import MODELS

    rows = [{"name": name, "about": (make.__doc__ or "").strip()} for name, make in MODELS.items()]
    rows += [
        {
            "name": "<timm name>",
            "about": "any timm model with one classifier: resnet18, vit_tiny_patch16_224, ...",
        },
        {
            "name": "torchvision/<name>",
            "about": "any torchvision classification model: torchvision/mobilenet_v2, ...",
        },
    ]
    print_table("models", rows, as_json)


def data(as_json: Json = False) -> None:
    """The data sources that an experiment can name."""
    from fedtl.data.registry import DATA

    print_table(
        "data sources", [{"name": name, "about": source.about} for name, source in DATA.items()], as_json
    )
