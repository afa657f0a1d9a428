"""The page of an audit, from audit.json and the pictures of its inversion. Lays out; decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup

from fedtl.report import audit_plots
from fedtl.report.page import Cell, Grid, Plot, render

DASH = "not measured"
ATTACKS = {"rmia": "RMIA", "lira": "LiRA"}
SHOWED = "What each silo's canaries showed. Bounds hold with 95 %; the Gaussian one only where scores are normal, and it refutes nothing"
LOOKS = {"passed": "", "failed": "loses", "not exercised": ""}  # of a check, by its status
NO_PICTURES = "Figures alone: no picture of a row is on this page."
PICTURES = (
    "The pictures are training rows, which the owners of these silos declared showable ([audit] show_rows)."
)
WORDS = {
    "epsilon, delta": "How much one record may change what leaves, at most. 0: nothing is learnt about it. At 1 an "
    "attacker's odds change by a factor of 2.7, at 3 by 20; delta is the small chance of worse.",
    "GDP mu": "The same promise in one number: telling whether a record was in is no easier than telling a normal distribution "
    "from the same one moved by mu standard deviations.",
    "sigma, q, clip": "Noise of sigma clips is added at each step; a step holds each record with chance q; a clip is the most that "
    "one record may move a step.",
    "false alarms": "The share of records that were not trained on, and that an attacker takes for trained on.",
    "canary": "An artificial record, put in or left out by a coin, of which the auditor knows which it was.",
    "bound": "The smallest epsilon that agrees with what was measured. It lies far below the true one; only a bound above the claim "
    "says something.",
    "membership, AUC": "An attacker guesses who was trained on. 0.5 is guessing, 1 is always right.",
    "PSNR, SSIM": "How much a reconstruction is like the original. It tells something only where it is better than the mean image.",
}
LOOKS = {"passed": "", "failed": "loses", "not exercised": ""}  # of a check, by its status


@dataclass(frozen=True)
class Section:
    title: str
    lines: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    plots: Sequence[Plot] = field(default_factory=list)
    parts: Sequence["Section"] = ()


@dataclass(frozen=True)
class Pictures:
    """The best reconstructions, beside what they are of; [C, H, W] of 0..1. Of showable rows alone."""

    originals: Sequence[Any] = ()
    guesses: Sequence[Any] = ()
    titles: Sequence[str] = ()


def audit_page(audit: Mapping[str, Any], pictures: Pictures, experiment_toml: str) -> str:
    """The whole page of ``audit.json``, in the order of its statement."""
    claimed, measured, power, blind = (Section(part["title"], part["lines"]) for part in audit["statement"])
    details = [_membership(audit), _inversion(audit, pictures), _roles(audit)]
    found = replace(measured, **_canaries(audit), parts=details)
    return render(
        "audit.html.j2",
        title=f"Privacy audit of {audit['method']} on {audit['model']}, seen from the {audit['vantage']}",
        notice=audit["notice"],
        answer=_answer(audit),
        warnings=audit["violations"],
        sections=[
            replace(claimed, grids=_claims(audit)),
            found,
            replace(power, grids=_power(audit)),
            blind,
        ],
        details=_checks(audit),
        words=WORDS,
        notes=audit["notes"],
        experiment=experiment_toml,
        version=audit["fedtl"],
    )


def number(value: float | None, digits: int = 3) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _answer(audit: Mapping[str, Any]) -> str:
    said = audit["verdict"]
    return f"{said[:1].upper()}{said[1:]}."


def _claims(audit: Mapping[str, Any]) -> list[Grid]:
    claims = {name: its["claimed"] for name, its in audit["silos"].items() if its["claimed"]}
    head = [
        *("silo", "protected", "n", "noise multiplier sigma", "sample rate q", "rounds", "steps"),
        *("epsilon", "delta", "GDP mu", "most that can be found at 1 % false alarms", "at 0.1 %"),
    ]
    rows = [
        [
            *(Cell(text) for text in (name, its["unit"], its["units"])),
            *(Cell(number(its[key])) for key in ("noise_multiplier", "sample_rate")),
            *(Cell(its[key]) for key in ("rounds", "steps")),
            *(Cell(number(its["epsilon"])), Cell(f"{its['delta']:.0e}"), Cell(number(its["mu"]))),
            *(Cell(f"{100 * its[key]:.1f} %") for key in ("tpr_at_fpr_0.01", "tpr_at_fpr_0.001")),
        ]
        for name, its in claims.items()
    ]
    return [Grid("Each silo's claim, and what follows from it", head, rows)] if rows else []


def _canaries(audit: Mapping[str, Any]) -> dict[str, Any]:
    """The grids and plots of what the canaries showed."""
    head = [
        *("silo", "noise (sound: 1)", "clips a record moves (sound: 1)", "epsilon at least: Steinke", "f-DP"),
        *("Gaussian", "checks"),
    ]
    rows = []
    for name, its in audit["silos"].items():
        bounds, found = its["bounds"] or {}, its["conformance"] or {}
        passed = found.get("passed")
        look = "" if passed is None else "gains" if passed else "loses"
        rows.append(
            [
                Cell(name),
                *(Cell(number(found.get(key))) for key in ("noise_std_ratio", "sensitivity_over_clip")),
                *(Cell(number(bounds.get(key))) for key in ("steinke", "fdp", "gaussian")),
                Cell(DASH if passed is None else "passed" if passed else "failed", look),
            ]
        )
    measured = any(its["bounds"] for its in audit["silos"].values())
    plots = (
        [_plot("Claimed epsilon and measured bounds", audit_plots.claims(audit["silos"]))] if measured else []
    )
    grids = [
        Grid(SHOWED, head, rows),
        *_planted(audit["input_canaries"]),
    ]
    return {"grids": grids, "plots": plots}


def _power(audit: Mapping[str, Any]) -> list[Grid]:
    head = ["silo", "noise off by", "clips off by", "epsilon: Steinke", "epsilon: f-DP"]
    rows = []
    for name, its in audit["silos"].items():
        if power := its["power"]:
            bounds = power["epsilon"]
            rows.append(
                [
                    *(
                        Cell(name),
                        Cell(f"{100 * power['noise']:.1f} %"),
                        Cell(number(power["sensitivity"], 2)),
                    ),
                    *(
                        Cell("never" if bounds[key] is None else f"{bounds[key]:.1f} or more")
                        for key in ("steinke", "fdp")
                    ),
                ]
            )
    return [Grid("What would have refuted the claim, with a chance of 95 %", head, rows)] if rows else []


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
    lines = [*found["notes"], PICTURES if pictures.originals else NO_PICTURES]
    return Section("Reconstruction of inputs", lines, [Grid("Inputs from updates", head, rows)], plots)


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
