"""The rounds of runs as events that TensorBoard shows as curves."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedtl.errors import ConfigError
from fedtl.report.round_writer import RoundWriter
from fedtl.results.run import HistoryLine

EVENTS = "events.out.tfevents."  # how TensorBoard's own writer names its files, before the second in which one was made


class RoundEvents(RoundWriter):
    """
    Writes the rounds of each run to a folder with the run's name: what each silo measured (``accuracy/SILO``), the mean over
    silos (``accuracy/mean``), the norm of each update, the seconds and bytes of the round, and how many silos were left out. Rounds that an
    earlier call wrote to the same folder are replaced. Raises ConfigError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # here, because it takes seconds
        except ImportError as error:
            raise ConfigError("--tensorboard needs TensorBoard: pip install 'fedtl[tensorboard]'") from error
        super().__init__()
        self._folder, self._make = folder, SummaryWriter
        self._writers: dict[str, SummaryWriter] = {}

    def _write(self, run: str, lines: Sequence[HistoryLine]) -> None:
        if run not in self._writers:
            _wait_for_a_later_name(self._folder / run)
            self._writers[run] = self._open.enter_context(self._make(str(self._folder / run), purge_step=1))
        for line in lines:
            for tag, value in scalars(line):
                self._writers[run].add_scalar(tag, value, line.round)
        self._writers[run].flush()


def _wait_for_a_later_name(folder: Path) -> None:
    """
    Wait, for a second at most, until a file of events that is made now sorts after those in ``folder``. TensorBoard reads files in the order
    of their names, which hold the second and then the process; of two files of one second it could take the older for the later one.
    """
    now = f"{EVENTS}{int(time.time()):010d}"
    if any(file.name.startswith(now) for file in folder.glob(f"{EVENTS}*")):
        time.sleep(1 - time.time() % 1)


def scalars(line: HistoryLine) -> Iterator[tuple[str, float]]:
    """Yield tag and value of each curve at this round."""
    metrics = sorted({metric for figures in line.silos.values() for metric in figures})
    for metric in metrics:
        values = {silo: figures[metric] for silo, figures in line.silos.items() if metric in figures}
        yield from ((f"{metric}/{silo}", value) for silo, value in values.items())
        yield f"{metric}/mean", sum(values.values()) / len(values)
    yield from ((f"norm of the update/{silo}", norm) for silo, norm in line.norms.items())
    yield "round/seconds", line.seconds
    yield "round/bytes from silos", line.bytes_up
    yield "round/bytes to silos", line.bytes_down
    yield "round/silos left out", len(line.left_out)
