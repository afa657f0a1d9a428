"""Plots of an audit as inline SVG: claimed epsilon and measured bounds, ROC curves, reconstructed inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fedtl.report.plots import (
    GREY,
    INK,
    MARKERS,
    PALETTE,
    draw_legend,
    label_axes,
    label_rows,
    new_figure,
    to_svg,
)
from fedtl.results.audit import AttackResult, AuditResult

BOUNDS = {"steinke": "Steinke et al.", "fdp": "f-DP", "gaussian": "Gaussian (assumes normal scores)"}
ATTACKS = {"rmia": "RMIA", "lira": "LiRA"}
MIN_RATE = 1e-3  # rates below are drawn here


def claims(audit: AuditResult) -> str:
    """The claimed epsilon of each silo, and the measured lower bounds on it."""
    claims = audit.claims
    bounds = {name: silo.bounds for name, silo in audit.silos.items() if silo.bounds and name in claims}
    figure, axes = new_figure(0.32 * len(bounds) + 1.4)
    keys: dict[str, Artist] = {}
    for row, (name, measured) in enumerate(bounds.items()):
        epsilon = claims[name].epsilon
        (keys["claimed"],) = axes.plot([epsilon] * 2, [row - 0.35, row + 0.35], color=INK, lw=2.5)
        for at, (bound, title) in enumerate(BOUNDS.items()):
            value = getattr(measured, bound)
            (keys[title],) = axes.plot(value, row, MARKERS[at], color=PALETTE[at], ms=6)
    axes.set_xlim(left=0)
    label_rows(axes, list(bounds))
    label_axes(
        axes, "Claimed epsilon and measured lower bounds", "epsilon (lower bounds at 95 % confidence)", ""
    )
    draw_legend(axes, keys)
    return to_svg(figure, "claims")


def roc(membership: Mapping[str, AttackResult]) -> str:
    """ROC curves of the membership attacks on logarithmic axes, with that of a random guess."""
    figure, axes = new_figure(4.2)
    keys: dict[str, Artist] = {}
    for at, (attack, result) in enumerate(membership.items()):
        points = np.maximum(np.array(result.roc or [[1.0, 1.0]]), MIN_RATE)
        (keys[ATTACKS[attack]],) = axes.plot(
            points[:, 0], points[:, 1], color=PALETTE[at], lw=1.8, drawstyle="steps-post"
        )
    (keys["random guess"],) = axes.plot([MIN_RATE, 1], [MIN_RATE, 1], color=GREY, lw=1, ls="--")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        # Powers of ten would be parsed as formulas, which takes half a second.
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    label_axes(axes, "ROC curves of membership inference", "false positive rate", "true positive rate")
    draw_legend(axes, keys)
    return to_svg(figure, "roc")


def pairs(originals: Sequence[Any], guesses: Sequence[Any], titles: Sequence[str]) -> str:
    """Originals above and their best reconstructions below. Images are [C, H, W] with values in 0..1."""
    count = max(len(originals), 1)
    figure = Figure(figsize=(min(8.6, 1.25 * count), 3.0), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(2, count, squeeze=False)
    for line, images in enumerate((originals, guesses)):
        for at, image in enumerate(images):
            shown = np.asarray(image, float).clip(0, 1)
            shown = shown.mean(0) if shown.shape[0] not in (3,) else shown.transpose(1, 2, 0)
            panels[line, at].imshow(shown, cmap="gray", vmin=0, vmax=1)
    for at, panel in enumerate(panels.flat):
        panel.set_xticks([])
        panel.set_yticks([])
        if at < len(titles):
            panel.set_title(titles[at], fontsize=8)
    panels[0, 0].set_ylabel("original")
    panels[1, 0].set_ylabel("reconstruction")
    return to_svg(figure, "pairs")
