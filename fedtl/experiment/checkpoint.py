"""The checkpoint of a run: the server's state, the local tensors of every silo, and the totals so far."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedtl._util.records import from_plain, to_plain
from fedtl.experiment.result import Totals
from fedtl.federation.round_log import RoundLog
from fedtl.federation.rounds import ServerState
from fedtl.models.state import State
from fedtl.privacy.taint import Label, Labels
from fedtl.training.silo import Silo


@dataclass(frozen=True)
class RunState:
    """What a run continues from. ``local`` and ``labels``: by silo, its local tensors and their provenance labels."""

    server: ServerState
    local: Mapping[str, State]
    labels: Mapping[str, Labels]
    totals: Totals


def save_run_state(log: RoundLog, server: ServerState, silos: Mapping[str, Silo], totals: Totals) -> None:
    """Write the checkpoint of a round."""
    log.save(
        server,
        locals={name: silo.local for name, silo in silos.items()},
        labels={name: {k: str(v) for k, v in silo.labels.items()} for name, silo in silos.items()},
        so_far=to_plain(totals),
    )


def load_run_state(log: RoundLog) -> RunState | None:
    """Return the last checkpoint; None before the first round. Raises ConfigError where it is damaged."""
    checkpoint = log.resume()
    if checkpoint is None:
        return None
    labels: dict[str, Labels] = {
        name: {k: Label(v) for k, v in own.items()} for name, own in checkpoint.extra["labels"].items()
    }
    totals = from_plain(Totals, checkpoint.extra["so_far"])
    return RunState(checkpoint.server, checkpoint.extra["locals"], labels, totals)
