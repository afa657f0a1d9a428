"""The audit of a run folder: audit.json, the page, and the signed bundle."""

import json
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

import fedtl
from fedtl._util.files import write_file
from fedtl._util.records import from_plain
from fedtl.audit import bundle, units
from fedtl.audit.attacks import membership
from fedtl.audit.attacks.planted_rows import planted_findings
from fedtl.audit.attacks.reconstruction import best_pictures, inversion_result
from fedtl.audit.attacks.reference_models import ObservedFederation, evidence, pool_log_odds
from fedtl.audit.audited_run import AuditedRun
from fedtl.audit.checks import check_run
from fedtl.audit.notes import notes
from fedtl.audit.statement import statement, verdict
from fedtl.audit.transcript import last_hash
from fedtl.audit.verdict import check_result, describe_violation, failed
from fedtl.audit.workload import FULL, Effort, JobResults, Progress, run_workload
from fedtl.errors import ConfigError
from fedtl.experiment.config.known_tasks import check_every_task
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.config.target_checks import may_lack_labels
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.pretrain import central_experiment, pretrain
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.experiment.study_data import RowStores
from fedtl.report.audit_attacks import Pictures
from fedtl.report.audit_page import audit_page
from fedtl.results.audit import Adversary, AttackResult, AuditResult
from fedtl.simulation.shared_store import SharedStore, temporary_store
from fedtl.training import threads

AUDIT, PAGE, EXPERIMENT = "audit.json", "audit.html", "experiment.toml"
SIGNED = (AUDIT, PAGE, EXPERIMENT)


@dataclass(frozen=True)
class AuditOptions:
    """
    The options of an audit. ``pictures``: print training rows next to their reconstructions, of the silos that the run's
    own experiment declares showable.
    """

    adversary: Adversary = Adversary.SERVER
    effort: Effort = FULL
    device: str = "cpu"
    pictures: bool = False


def audit_run(
    folder: RunFolder,
    out: Path,
    options: AuditOptions,
    key: Path,
    progress: Progress,
    raws: SharedStore | None = None,
) -> AuditResult:
    """
    Audit a finished run and write the signed bundle to ``out``. ``key``: the PEM file of the key that signs, created if it
    does not exist. ``raws``: a store with the silos' rows as they are stored, for rows that are in no file. Raises ConfigError, before any
    work, if the run cannot be audited.
    """
    clock = time.perf_counter()
    experiment = folder.experiment()
    folder.result()  # raises ConfigError for a run that has not finished, and for a comparison
    refuse_unauditable(experiment)
    showable = showable_silos(experiment) if options.pictures else frozenset[str]()
    if unexpected := bundle.unexpected_files(out, {*SIGNED, bundle.BUNDLE, bundle.SIGNATURE}):
        raise ConfigError(
            f"{out} contains {unexpected[0]}, which is not part of a bundle; name a new folder with --out"
        )
    signer = bundle.load_signing_key(key)
    threads.set_threads(experiment.engine.threads)
    with temporary_store() as store:
        run = _audited_run(folder, options, RowStores(raws or store, store))
        if unknown := sorted(showable - set(run.study.training)):
            raise ConfigError(
                f"audit.show_rows: no silo named {unknown[0]!r} trains; choose from {', '.join(run.study.training[:12])}"
            )
        results = run_workload(run, options.effort, progress)
        result = _result(run, results, options.effort)
        result = replace(result, seconds=round(time.perf_counter() - clock, 1))
        _write_bundle(run, result, best_pictures(run.study, results.inversion, showable), out, signer)
    return result


def read_audit(out: Path) -> AuditResult:
    """Read audit.json in the folder of an audit. Raises ConfigError if it is missing or damaged."""
    path = out / AUDIT
    try:
        return from_plain(AuditResult, json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is missing or damaged ({error}); audit the run again") from error


def refuse_unauditable(experiment: Experiment) -> None:
    """Raise ConfigError for a method that has no silos to attack, for silos whose models differ, and for hidden labels."""
    check_every_task(experiment, "fedtl audit")
    if may_lack_labels(experiment.data):
        raise ConfigError(
            "data.unlabelled, data.label_fraction and data.missing_labels: the attacks are on rows with labels, and would miss the others; audit a run "
            "without these settings"
        )
    if names := [name for name, own in experiment.silo.items() if own.model is not None]:
        raise ConfigError(
            f"silo.{names[0]}.model: the attacks need one model that all silos have; audit a run without it"
        )
    if method_of(experiment.method).pool:
        raise ConfigError(
            f"method.name = {experiment.method.name!r} trains without silos, so there is nothing to audit; audit a run of another method"
        )


def showable_silos(experiment: Experiment) -> frozenset[str]:
    """The silos whose rows may be printed. Raises ConfigError if the experiment declares none."""
    if not experiment.audit.show_rows:
        raise ConfigError(
            "--pictures prints training rows, but audit.show_rows of the run permits that for no silo; with the consent of a silo's "
            'data owner, run it again with [audit] show_rows = ["<silo>"], or leave out --pictures'
        )
    return frozenset(experiment.audit.show_rows)


def _audited_run(folder: RunFolder, options: AuditOptions, stores: RowStores) -> AuditedRun:
    experiment, start = folder.experiment(), None
    raw, prepared = stores.raw, stores.prepared
    if experiment.model.pretrain_on:
        central = build(central_experiment(experiment), raw, prepared, options.device)
        start = pretrain(experiment, folder, central.trainer, central.schema)
    study = with_guarantees(build(experiment, raw, prepared, options.device, start), folder)
    return AuditedRun(folder, study, options.adversary, start)


def _result(run: AuditedRun, jobs: JobResults, effort: Effort) -> AuditResult:
    """The result of all jobs and checks; ``seconds`` is set when the audit ends."""
    ran = run.folder.result()
    findings = check_run(run, jobs.retraining)
    planted = planted_findings(run.study, jobs.planted)
    if planted.checks:  # all checks together share FAMILY_LEVEL
        checks = [*findings.checks, *planted.checks]
        findings = replace(findings, checks=checks, violations=failed(checks))
    result = AuditResult(
        notice=bundle.NOTICE,
        verdict="",
        statement=(),
        fedtl=fedtl.__version__,
        run=run.folder.path.name,
        adversary=run.adversary,
        method=ran.method,
        model=ran.model,
        seed=ran.seed,
        silos=findings.silos,
        membership=_membership(run, jobs),
        inversion=inversion_result(run.study, jobs.inversion),
        roles=tuple(jobs.roles.values()),
        input_canaries=planted.result,
        private=ran.privacy is not None and ran.privacy.private,
        violations=tuple(map(describe_violation, findings.violations)),
        checks=tuple(check_result(check, findings.violations) for check in findings.checks),
        unit=units.unit_of(run.study.experiment),
        notes=tuple(notes(run, findings, effort)),
        seconds=0.0,
        peak_memory_mib=_peak_memory(),
    )
    return replace(result, verdict=verdict(result), statement=statement(result))


def _membership(run: AuditedRun, jobs: JobResults) -> dict[str, AttackResult]:
    """The results of membership inference; empty if the run recorded nothing that the adversary saw."""
    if (first := jobs.first_reference) is None:
        return {}
    study = run.study
    observed = ObservedFederation(run.messages, run.folder.tensors("shared.safetensors"), run.received_models)
    target = pool_log_odds(study, observed, run.adversary, first.whole)
    references = {0: pool_log_odds(study, first, run.adversary, first.whole), **jobs.references}
    return membership.attack(evidence(study, target, references))


def _write_bundle(
    run: AuditedRun, result: AuditResult, pictures: Pictures, out: Path, signer: bundle.SigningKey
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    toml = (run.folder.path / EXPERIMENT).read_text()
    page = audit_page(result, pictures, toml)
    RunFolder(out).write_json(AUDIT, result)
    write_file(out / PAGE, lambda file: file.write_text(page))
    write_file(out / EXPERIMENT, lambda file: file.write_text(toml))
    ledgers = {
        name: last_hash(guarantee.account.path, guarantee.account.dataset)
        for name, guarantee in sorted(run.study.guarantees.items())
    }
    bundle.sign_bundle(out, SIGNED, result.run, ledgers, result.violations, signer)


def _peak_memory() -> float:
    """The peak memory of this process and of its largest child process, in MiB."""
    kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(kib / 1024, 1)
