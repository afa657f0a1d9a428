"""Attack a finished run and compare what is measured with what it claims."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedtl.api.bars import progress_bar
from fedtl.api.experiments import Data
from fedtl.api.results import FinishedRun, html_page
from fedtl.api.run_rows import run_rows
from fedtl.audit.audit import PAGE, AuditOptions, audit_run, read_audit
from fedtl.audit.workload import FULL, QUICK
from fedtl.errors import ConfigError
from fedtl.results.audit import Adversary, AuditResult
from fedtl.simulation.choose import choose_device
from fedtl.simulation.worker import exit_if_unguarded

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class FinishedAudit:
    """An audit in its folder, which is the signed bundle. The numbers are those of ``audit.json``."""

    path: Path

    def __repr__(self) -> str:
        return f"FinishedAudit({str(self.path)!r}: {self.result.verdict})"

    def _repr_html_(self) -> str:
        return html_page(self.result.verdict, [self.table, self.verdicts], self.path)

    @cached_property
    def result(self) -> AuditResult:
        """All numbers. Raises ConfigError where the file is damaged."""
        return read_audit(self.path)

    @property
    def refuted(self) -> bool:
        """Whether a check failed, so that the run's claim is not true."""
        return bool(self.result.violations)

    @property
    def table(self) -> "DataFrame":
        """A row per silo: the epsilon that it claims, and the lower bounds that the canaries give."""
        from fedtl.api.audit_frames import audit_table

        return audit_table(self.result)

    @property
    def verdicts(self) -> "DataFrame":
        """A row per silo and check: its status, p-value and measured number, or why it was not exercised."""
        from fedtl.api.audit_frames import audit_verdicts

        return audit_verdicts(self.result)

    def report(self) -> Path:
        """The path of the bundle's page."""
        return self.path / PAGE


def audit(
    run: FinishedRun | str | Path,
    data: Data | None = None,
    *,
    adversary: str = "server",
    quick: bool = False,
    out: str | Path | None = None,
    key: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
) -> FinishedAudit:
    """
    Attack a finished run and return the audit; a refuted claim is a result, not an error.

    ``run``: a finished run or its folder. ``data``: the rows of the run, where it had rows in memory. ``adversary``: "server" (sees every
    update), "silo" (sees what the server sends) or "model" (sees the final model). ``quick``: one reference model and no
    table of roles. ``out``: the folder of the signed bundle; default: ``audit`` in the run's folder. ``key``: the file of
    the Ed25519 key that signs; default: a new key in the run's folder. Raises ConfigError, and DataError where the
    rows are not those of the run.
    """
    exit_if_unguarded()
    finished = run if isinstance(run, FinishedRun) else FinishedRun(Path(run))
    folder = finished.folder
    target = Path(out) if out is not None else folder.path / "audit"
    signer = Path(key) if key is not None else folder.path / "audit-key.pem"
    if adversary not in list(Adversary):
        raise ConfigError(f"adversary {adversary!r} is not one of {', '.join(Adversary)}")
    options = AuditOptions(Adversary(adversary), QUICK if quick else FULL, choose_device(device))
    with run_rows(folder, data) as store, progress_bar(progress, "audit") as show:
        audit_run(folder, target, options, signer, lambda done, total, _: show(done, total), store)
    return FinishedAudit(target)
