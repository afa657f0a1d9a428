"""The curves of accuracy over shots, as inline SVG."""

from matplotlib.ticker import FixedLocator, NullLocator

from fedtl.report.bounds import bounded
from fedtl.report.onboard_figures import HEAD_NAMES, METRIC
from fedtl.report.plots import INK, MARKERS, PALETTE, draw_legend, label_axes, new_figure, to_svg
from fedtl.results.onboard import OnboardResult


def shot_curves(result: OnboardResult) -> str:
    """Accuracy of each head on test rows by the number of labels a class, with 95 % intervals over episodes."""
    figure, axes = new_figure(4.6)
    shown = [key for key in HEAD_NAMES if any(key in part.heads for part in result.shots)]
    keys = {}
    for at, key in enumerate(shown):
        parts = [(part.shots, part.heads[key]) for part in result.shots if key in part.heads]
        x, means = [shots for shots, _ in parts], [100 * score.mean for _, score in parts]
        main = key == "chosen"
        colour = INK if main else PALETTE[(at - 1) % len(PALETTE)]
        look = "--" if key in ("alone", "received", "tuned", "mixed") else "-"
        (line,) = axes.plot(
            x, means, look, color=colour, marker=MARKERS[at % len(MARKERS)], ms=5, lw=2.6 if main else 1.4
        )
        for shots, score in parts:
            if score.ci95:
                axes.plot([shots] * 2, [100 * end for end in bounded(METRIC, score.ci95)], color=colour, lw=1)
        keys[HEAD_NAMES[key]] = line
    axes.set_xscale("log")
    counts = [part.shots for part in result.shots]
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [str(count) for count in counts])
    label_axes(axes, f"{result.silo}, which did not train", "labelled rows a class", "test accuracy (%)")
    draw_legend(axes, keys)
    return to_svg(figure, "shots")
