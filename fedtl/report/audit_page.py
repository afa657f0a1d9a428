"""The page of an audit, from audit.json and the pictures of its inversion. Lays out; decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from fedtl.report import audit_plots
from fedtl.report.page import Cell, Grid, Plot, render

DASH = "not measured"
ATTACKS = {"rmia": "RMIA", "lira": "LiRA"}
LOOKS = {"passed": "", "failed": "loses", "not exercised": ""}  # of a check, by its status


@dataclass(frozen=True)
class Section:
    title: str
    lines: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    plots: Sequence[Plot] = field(default_factory=list)


@dataclass(frozen=True)
class Pictures:
    """The best reconstructions, beside what they are of; [C, H, W] of 0..1."""

    originals: Sequence[Any] = ()
    guesses: Sequence[Any] = ()
    titles: Sequence[str] = ()


def audit_page(audit: Mapping[str, Any], pictures: Pictures, experiment_toml: str) -> str:
    """The whole page of ``audit.json``."""
    count = len(audit["violations"])
    answer = f"{count} claim{'s are' if count > 1 else ' is'} refuted." if count else "No violation found."
    return render(
        "audit.html.j2",
        title=f"Privacy audit of {audit['method']} on {audit['model']}, seen from the {audit['vantage']}",
        answer=answer,
        warnings=audit["violations"],
        sections=[_claims(audit), _membership(audit), _inversion(audit, pictures), _roles(audit)],
        details=_checks(audit),
        notes=audit["notes"],
        experiment=experiment_toml,
        version=audit["fedtl"],
    )


def number(value: float | None, digits: int = 3) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _claims(audit: Mapping[str, Any]) -> Section:
    head = [
        *("silo", "claimed epsilon", "delta", "Steinke", "f-DP", "Gaussian", "bounds would have refuted"),
        *("noise", "clips a record", "checks"),
    ]
    rows = []
    for name, its in audit["silos"].items():
        claimed, bounds, found = its["claimed"], its["bounds"] or {}, its["conformance"] or {}
        passed = found.get("passed")
        look = "" if passed is None else "gains" if passed else "loses"
        rows.append(
            [
                *(
                    Cell(name),
                    Cell(number(claimed and claimed["epsilon"])),
                    Cell(f"{claimed['delta']:.0e}" if claimed else "-"),
                ),
                *(Cell(number(bounds.get(key))) for key in ("steinke", "fdp", "gaussian")),
                Cell(_power(bounds.get("power"))),
                *(Cell(number(found.get(key))) for key in ("noise_std_ratio", "sensitivity_over_clip")),
                Cell(DASH if passed is None else "passed" if passed else "failed", look),
            ]
        )
    measured = any(its["bounds"] for its in audit["silos"].values())
    plots = (
        [_plot("Claimed epsilon and measured bounds", audit_plots.claims(audit["silos"]))] if measured else []
    )
    grids = [
        Grid("Each silo's claim beside what its canaries say", head, rows),
        *_planted(audit["input_canaries"]),
    ]
    return Section("Claimed and measured", _in_words(audit["silos"]), grids, plots)


def _in_words(silos: Mapping[str, Any]) -> list[str]:
    """What the largest claim allows, for whoever does not read epsilons."""
    claims = {name: its["claimed"] for name, its in silos.items() if its["claimed"]}
    if not claims:
        return []
    worst = max(claims, key=lambda name: claims[name]["tpr_at_fpr_0.01"])
    return [
        f"At the claimed epsilons nobody can pick members with more than {claims[worst]['tpr_at_fpr_0.01']:.1%} success at 1 % false "
        f"alarms, whatever they know; that is {worst}, and no silo allows more."
    ]


def _planted(found: Mapping[str, Any] | None) -> list[Grid]:
    """Bounds from mislabelled rows; the last line is that of whole silos, for which nothing is claimed."""
    if not found:
        return []
    lines = [*found["records"].items(), ("whole silos", found["silos"])]
    rows = [
        [
            Cell(name),
            Cell(its["canaries"]),
            *(Cell(number(its[key])) for key in ("steinke", "fdp", "gaussian")),
        ]
        for name, its in lines
    ]
    caption = "The same bounds from mislabelled rows planted in a run of their own, end to end"
    return [Grid(caption, ["silo", "canaries", "Steinke", "f-DP", "Gaussian"], rows, last=1)]


def _power(power: Mapping[str, float | None] | None) -> str:
    if power is None:
        return DASH
    seen = [value for value in power.values() if value is not None]
    return f"epsilon of {min(seen):.2f} or more" if seen else "no epsilon, with so few canaries"


def _membership(audit: Mapping[str, Any]) -> Section:
    attacks = audit["membership"]
    if not attacks:
        return Section("Membership", [f"Membership inference: {DASH}."])
    head = [
        "silo",
        "attack",
        "members",
        "others",
        "AUC",
        "95 %",
        "TPR at 1 % FPR",
        "95 %",
        "TPR at 0.1 % FPR",
        "95 %",
    ]
    rows, lines = [], dict[str, None]()
    for attack, its in attacks.items():
        for name, one in [*its["silos"].items(), ("all silos", its)]:
            rows.append(
                [
                    *(Cell(name), Cell(ATTACKS[attack]), Cell(one["members"]), Cell(one["others"])),
                    *(Cell(number(one["auc"])), Cell(_span(one["ci95"]))),
                    *(Cell(number(one["tpr_at_fpr_0.01"])), Cell(_span(one.get("tpr_at_fpr_0.01_ci95")))),
                    *(Cell(number(one["tpr_at_fpr_0.001"])), Cell(_span(one.get("tpr_at_fpr_0.001_ci95")))),
                ]
            )
        lines |= dict.fromkeys(its["notes"])
    grid = Grid("Was a row trained on? 0.5 is guessing", head, rows)
    return Section("Membership", list(lines), [grid], [_plot("ROC curves", audit_plots.roc(attacks))])


def _span(bounds: Sequence[float] | None) -> str:
    return "-" if not bounds else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _inversion(audit: Mapping[str, Any], pictures: Pictures) -> Section:
    found = audit["inversion"]
    if not found:
        return Section("Reconstruction of inputs", [f"Gradient inversion: {DASH}."])
    head = [
        "what crossed",
        "statistics",
        "rows",
        "labels found",
        "PSNR (dB)",
        "by guessing the mean",
        "SSIM",
        "SSIM of the mean",
    ]
    rows = [
        [
            *(
                Cell(case["case"]),
                Cell(case["statistics"]),
                Cell(case["rows"]),
                Cell(number(case["labels"], 2)),
            ),
            *(Cell(number(case[key], 2)) for key in ("psnr", "psnr_of_mean", "ssim", "ssim_of_mean")),
        ]
        for case in found["cases"]
    ]
    plots = (
        [_plot("Reconstructions", audit_plots.pairs(pictures.originals, pictures.guesses, pictures.titles))]
        if pictures.originals
        else []
    )
    return Section(
        "Reconstruction of inputs", found["notes"], [Grid("Inputs from updates", head, rows)], plots
    )


def _roles(audit: Mapping[str, Any]) -> Section:
    if not audit["roles"]:
        return Section("What sharing each role costs", [f"The table of roles: {DASH}."])
    head = [
        "shared",
        "RMIA AUC",
        "95 %",
        "TPR at 1 % FPR",
        "PSNR (dB)",
        "SSIM",
        "labels found",
        "mean accuracy",
    ]
    rows = [
        [
            *(Cell(" ".join(one["shared"])), Cell(number(one["auc"])), Cell(_span(one["ci95"]))),
            *(Cell(number(one[key], 3)) for key in ("tpr_at_fpr_0.01", "psnr", "ssim", "labels", "accuracy")),
        ]
        for one in audit["roles"]
    ]
    return Section(
        "What sharing each role costs", [], [Grid("The same attacks, seen from the server", head, rows)]
    )


def _checks(audit: Mapping[str, Any]) -> Grid:
    """Every check with its status; one that had nothing to measure says what was missing instead of a number."""
    rows = [
        [
            *(Cell(its["silo"]), Cell(its["name"]), Cell(its["status"], LOOKS[its["status"]])),
            Cell("-" if its["p"] is None else f"{its['p']:.2g}"),
            Cell(its["reason"] if its["p"] is None else number(its["value"])),
        ]
        for its in audit["checks"]
    ]
    idle = sum(its["p"] is None for its in audit["checks"])
    return Grid(
        f"{len(rows)} checks, of which {idle} were not exercised; all together err once in 10,000 sound audits",
        ["silo", "check", "status", "p", "value"],
        rows,
    )


def _plot(name: str, svg: str) -> Plot:
    return Plot(name, Markup(svg))
