"""What an experiment can name: ``fedtl methods`` and ``fedtl models``, a line each, or all about one of them."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from fedtl.cli.options import Json
from fedtl.cli.screen import print_entries, print_json, print_line

Entry = Mapping[str, str | Sequence[str]]  # "name", "about" and what else there is to say
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="print everything about this one")]


def methods(name: Name = None, as_json: Json = False) -> None:
    """
    List the federated methods and the loss terms that can be added to any method, one line each.

    With NAME, one of them: its paper and what it does, the roles that it shares, its settings with their defaults, and what it does at
    a silo without labels (data.unlabelled).

    Example: fedtl methods ditto
    """
    from fedtl.experiment.config.messages import check_choice
    from fedtl.experiment.config.resolve import about, describe
    from fedtl.methods.label_free import without_labels
    from fedtl.methods.registry import METHODS, TERMS

    method_rows: list[Entry] = [
        {
            "name": name,
            "shares": sorted(map(str, make().shared)),
            "settings": describe(make),
            "without labels": without_labels(make()),
            "about": about(make),
        }
        for name, make in METHODS.items()
    ]
    term_rows: list[Entry] = [
        {"name": name, "settings": describe(make), "about": about(make)} for name, make in TERMS.items()
    ]
    if name is not None:
        entries = {
            str(row["name"]): row for row in (*term_rows, *method_rows)
        }  # a method that is named after its loss hides that
        check_choice(list(entries), name, "NAME", "fedtl methods")
        _print_entry(entries[name], as_json)
    elif as_json:
        print_json({"methods": method_rows, "terms": term_rows})
    else:
        print_entries("methods", method_rows)
        print_entries('loss terms, for example: [method] terms = [{ name = "coral" }]', term_rows)
        print_line("Everything about one: fedtl methods NAME")


def models(name: Name = None, as_json: Json = False) -> None:
    """
    List the models, one line each; with NAME, one of them with its settings and their defaults.

    Any classification model of timm and torchvision can be used, too.

    Example: fedtl models convnet
    """
    from fedtl.experiment.config.resolve import about, describe
    from fedtl.models.registry import MODELS, check_model_name

    rows: list[Entry] = [
        {"name": name, "settings": describe(make), "about": about(make)} for name, make in MODELS.items()
    ]
    rows += [
        {
            "name": "<timm name>",
            "settings": "",
            "about": "any timm model with one classifier, such as resnet18 or vit_tiny_patch16_224",
        },
        {
            "name": "torchvision/<name>",
            "settings": "",
            "about": "any torchvision classification model, such as torchvision/mobilenet_v2",
        },
    ]
    if name is not None:
        check_model_name(name, "NAME")
        other: Entry = {
            "name": name,
            "settings": "",
            "about": "a model of another library, built by its name",
        }
        _print_entry(next((row for row in rows if row["name"] == name), other), as_json)
    elif as_json:
        print_json(rows)
    else:
        print_entries("models", rows)
        print_line("Everything about one: fedtl models NAME")


def _print_entry(entry: Entry, as_json: bool) -> None:
    if as_json:
        print_json(entry)
        return
    print_line(f"{entry['name']}: {entry['about']}")
    for key in [key for key in entry if key not in ("name", "about")]:
        value = entry[key]
        print_line(f"{key}: {(value if isinstance(value, str) else ' '.join(value)) or 'none'}")
