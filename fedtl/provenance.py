"""Where each tensor of a model comes from once its plan is carried out: for show, and for the files it leaves."""

from collections.abc import Mapping

from fedtl.bench import Bench
from fedtl.experiment.schema import PrivacySettings
from fedtl.planning import released_layers
from fedtl.privacy import labels
from fedtl.privacy.labels import Label
from fedtl.privacy.statistics import layers


def trained(bench: Bench, first: Mapping[str, Label], settings: PrivacySettings | None) -> dict[str, Label]:
    """
    After a silo's last round, by the tensors' names. ``first``: of the first weights. ``settings``: of that
    silo, None: not private. With noise that can be drawn again it is as if there were none.
    """
    if settings is None:
        return labels.after(first, bench.moves(bench.trained), private=False)
    moved, fresh = bench.moves(bench.trained - labels.STILL), refreshed(bench, settings)
    if settings.noise == "reproducible":
        return labels.after(first, [*moved, *fresh], private=False)
    sent = [name for name in moved if bench.partition.leaves(name)]
    return labels.after(first, moved, private=True, released=[*sent, *fresh])


def settled(bench: Bench, before: Mapping[str, Label]) -> dict[str, Label]:
    """Of the model that the silo itself uses in the end: what is fitted at home has no noise."""
    return labels.after(before, bench.moves(bench.settled), private=False)


def refreshed(bench: Bench, settings: PrivacySettings) -> list[str]:
    """The statistics that DP-AdaBN releases."""
    body = bench.net(1).body
    return [
        f"body.{path}.{name}"
        for path in released_layers(body, settings)
        for name, _ in layers(body)[path].named_buffers()
    ]
