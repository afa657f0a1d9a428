"""The checkpoint of a run: the server's state, the local tensors of every silo, and the totals so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedtl._util.records import from_plain, to_plain
from fedtl.experiment.best_round import BestRound
from fedtl.experiment.result import Totals
from fedtl.federation.round_log import RoundLog
from fedtl.federation.rounds import ServerState
from fedtl.models.state import State
from fedtl.privacy.taint import Label, Labels
from fedtl.results.run import UsedFile
from fedtl.training.silo import Silo


@dataclass(frozen=True)
class RunState:
    """
    What a run continues from. ``local`` and ``labels``: by silo, its local tensors and their provenance labels. ``best``: the best
    round, where ``train.patience`` looks for one. ``files``: what the run began from (``used_files``).
    """

    server: ServerState
    local: Mapping[str, State]
    labels: Mapping[str, Labels]
    totals: Totals
    best: BestRound | None = None
    files: tuple[UsedFile, ...] = ()


def save_run_state(
    log: RoundLog,
    server: ServerState,
    silos: Mapping[str, Silo],
    totals: Totals,
    best: BestRound | None = None,
    files: Sequence[UsedFile] = (),
) -> None:
    """Write the checkpoint of a round."""
    log.save(
        server,
        locals={name: silo.local for name, silo in silos.items()},
        labels=_as_text({name: silo.labels for name, silo in silos.items()}),
        so_far=to_plain(totals),
        files=to_plain(files),
        **({} if best is None else {"best": {**vars(best), "labels": _as_text(best.labels)}}),
    )


def load_run_state(log: RoundLog) -> RunState | None:
    """Return the last checkpoint; None before the first round. Raises ConfigError where it is damaged."""
    checkpoint = log.resume()
    if checkpoint is None:
        return None
    labels = _from_text(checkpoint.extra["labels"])
    totals = from_plain(Totals, checkpoint.extra["so_far"])
    found = checkpoint.extra.get("best")
    best = None if found is None else BestRound(**{**found, "labels": _from_text(found["labels"])})
    files = tuple(from_plain(UsedFile, file) for file in checkpoint.extra.get("files", ()))
    return RunState(checkpoint.server, checkpoint.extra["locals"], labels, totals, best, files)


def _as_text(labels: Mapping[str, Labels]) -> dict[str, dict[str, str]]:
    return {name: {tensor: str(label) for tensor, label in own.items()} for name, own in labels.items()}


def _from_text(labels: Mapping[str, Mapping[str, str]]) -> dict[str, Labels]:
    return {name: {tensor: Label(text) for tensor, text in own.items()} for name, own in labels.items()}
