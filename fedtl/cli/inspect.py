"""What can be known without training: ``fedtl show``, ``lint`` and the tables of names."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.table import Table

from fedtl.cli.screen import Exp, Json, Set, out_console, print_json, print_table, say


def show(experiment: Exp, set_: Set = None, as_json: Json = False) -> None:
    """What an experiment would do: its settings, and for every tensor what it is and whether it leaves a silo."""
    from fedtl.experiment.config.load import dump, load
    from fedtl.experiment.lint.dry_run import examine
    from fedtl.experiment.privacy_plan import claim, terms, warnings
    from fedtl.experiment.study import parts_table, tensor_table
    from fedtl.simulation.shared_store import temporary

    settings = load(experiment, set_ or [], sound=False)
    with temporary() as shelf:
        found = examine(settings, shelf)
    study, planned = found.study, found.guarantees
    tensors = tensor_table(study)
    per_silo = sum(tensor["bytes"] for tensor in tensors if tensor["leaves"])
    content = {
        "experiment": settings.model_dump(exclude_none=True),
        "tensors": tensors,
        "parts": parts_table(tensors),
        "bytes_up": per_silo,
        "bytes_down": per_silo,
        "training": study.training,
        "privacy": {"silos": {name: terms(its) for name, its in planned.items()}} | claim(settings.privacy)
        if settings.privacy
        else None,
        "refused": list(found.refused),
    }
    if as_json:
        print_json(content)
    else:
        _print_plan(content, dump(settings), [text for its in planned.values() for text in warnings(its)])
    if found.refused:
        raise typer.Exit(2)


def _print_plan(content: Mapping[str, Any], toml: str, warnings: Sequence[str]) -> None:
    from fedtl.report.tables import privacy_table

    settings, tensors, privacy = content["experiment"], content["tensors"], content["privacy"]
    out_console.print(toml, highlight=False, markup=False)
    columns = ["tensor", "role", "shape", "bytes", "", *(["comes from"] if privacy else [])]
    table = Table(*columns, title=f"{settings['method']['name']} on {settings['model']['name']}")
    for tensor in tensors:
        leaves = "[red]leaves[/]" if tensor["leaves"] else "[green]stays[/]"
        table.add_row(
            tensor["name"],
            tensor["role"],
            " x ".join(map(str, tensor["shape"])) or "scalar",
            f"{tensor['bytes']:,}",
            leaves,
            *([tensor["label"]] if "label" in tensor else []),
        )
    out_console.print(table)
    out_console.print(
        f"{content['bytes_up']:,} bytes leave a silo each round and as many come in; {len(content['training'])} silos train."
    )
    for part in content["parts"]:
        where = "crosses each round" if part["leaves"] else "stays at the silo"
        out_console.print(
            f"beside the model: {part['name']}, {part['bytes']:,} bytes, {where}", highlight=False
        )
    for text in content["refused"]:
        say(f"refused: {text}")
    if privacy is None:
        out_console.print(
            "Without differential privacy: what leaves can tell about a silo's rows.", style="yellow"
        )
        return
    if privacy["silos"]:
        out_console.print(privacy_table(privacy))
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
    from fedtl.experiment.config.resolve import about, describe
    from fedtl.methods.registry import METHODS, TERMS

    rows = [
        {
            "name": name,
            "shares": sorted(map(str, make().shared)),
            "settings": describe(make),
            "about": about(make),
        }
        for name, make in METHODS.items()
    ]
    terms = [{"name": name, "settings": describe(make), "about": about(make)} for name, make in TERMS.items()]
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
