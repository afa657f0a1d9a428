"""A whole audit of one run folder: what audit.json holds, the page, the signed bundle."""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import fedtl
from fedtl import machine
from fedtl.audit import bundle, claims, inputs, membership, reconstruct, roles
from fedtl.audit.claims import Findings, Vantage
from fedtl.audit.inversion import psnr
from fedtl.audit.reconstruct import SHOWN, Attempt
from fedtl.audit.shadows import Watched, engine_for, evidence, reference
from fedtl.audit.transcript import head
from fedtl.audit.verdict import FAMILY, violation
from fedtl.durable import write
from fedtl.errors import ConfigError
from fedtl.experiment.schema import Experiment
from fedtl.pretrain import plain, pretrained
from fedtl.recorder import Seen, read
from fedtl.report.audit_page import Pictures, audit_page
from fedtl.runfolder import TRANSCRIPT, RunFolder
from fedtl.simulate.shelf import temporary
from fedtl.state import State
from fedtl.study import Study, build

AUDIT, PAGE = "audit.json", "audit.html"


@dataclass(frozen=True)
class Effort:
    """
    How much is tried: reference models, those of the table of roles, steps of an inversion; whether mislabelled rows are
    planted, which takes two more federations.
    """

    references: int = 16
    for_roles: int = 2
    iterations: int = 100
    roles: bool = True
    planted: bool = True

    @property
    def stages(self) -> int:
        return self.references + 5


QUICK = Effort(references=1, for_roles=1, iterations=40, roles=False, planted=False)
Progress = Callable[[int, str], None]  # stages that are done, and what comes next


def audit(
    folder: RunFolder, out: Path, vantage: Vantage, effort: Effort, key: Path, device: str, progress: Progress
) -> dict[str, Any]:
    """
    Audit a finished run and leave the bundle in ``out``; returns what audit.json holds. Raises ConfigError, before any
    work, where the run cannot be audited.
    """
    clock = time.perf_counter()
    experiment, result = folder.experiment(), folder.read_json("result.json")
    refuse(experiment)
    signer = bundle.key(key)
    machine.settle(experiment.engine.threads)
    with temporary() as shelf:
        start = None
        if experiment.model.pretrain_on:
            central = build(plain(experiment), shelf, shelf, device)
            start = pretrained(experiment, folder, central.bench, central.survey)
        study = build(experiment, shelf, shelf, device, start).promised(folder)
        seen = read(folder.path / TRANSCRIPT)
        progress(0, "claims")
        findings = claims.examine(study, folder, seen, vantage)
        progress(1, "reference models")
        attacks, ends = _attacks(study, folder, seen, vantage, effort, start, progress)
        findings = inputs.joined(findings, ends)
        progress(effort.references + 2, "inversion")
        inverted, pictures = _inversion(study, seen, effort.iterations)
        progress(effort.references + 3, "what sharing each role costs")
        table = roles.table(study, start, effort.for_roles, effort.iterations) if effort.roles else []
        progress(effort.references + 4, "the bundle")
        found = {
            **{"fedtl": fedtl.__version__, "run": folder.path.name, "vantage": vantage},
            **{"method": result["method"], "model": result["model"], "seed": result["seed"]},
            **{
                "silos": _with_risk(findings.silos),
                "membership": attacks,
                "inversion": inverted,
                "roles": table,
            },
            "input_canaries": None if ends is None else ends.shown,
            "violations": [violation(check) for check in findings.violations],
            "checks": [_plain(asdict(check)) for check in findings.checks],
            "notes": _notes(experiment, result, findings, seen, effort),
            "seconds": round(time.perf_counter() - clock, 1),
            "peak_memory_mib": _peak(),
        }
        _keep(found, pictures, folder, out, study, signer)
    progress(effort.stages, "done")
    return found


def refuse(experiment: Experiment) -> None:
    """Raise ConfigError for what has no silos to attack, or protects what these attacks do not aim at."""
    if experiment.privacy is not None and experiment.privacy.unit != "record":
        raise ConfigError(
            f"privacy.unit = {experiment.privacy.unit!r}: these attacks aim at single records, and would flatter a "
            f'claim about each {experiment.privacy.unit}; audit a run with unit = "record"'
        )
    if experiment.method.name == "pooled":
        raise ConfigError("method 'pooled' is a yardstick that shares nothing; audit a run of another method")


def _plain(check: dict[str, Any]) -> dict[str, Any]:
    its = {key: check[key] for key in ("silo", "name")}
    return its | {key: None if check[key] is None else float(check[key]) for key in ("p", "value")}


def _with_risk(silos: Mapping[str, Any]) -> dict[str, Any]:
    for its in silos.values():
        if claimed := its["claimed"]:
            claimed["tpr_at_fpr_0.01"] = membership.most_likely(claimed["epsilon"], claimed["delta"])
    return dict(silos)


def _attacks(
    study: Study,
    folder: RunFolder,
    seen: Sequence[Seen],
    vantage: Vantage,
    effort: Effort,
    start: State | None,
    progress: Progress,
) -> tuple[dict[str, Any], inputs.Ends | None]:
    """Membership, and canaries in input space; nothing where the vantage saw nothing that was kept."""
    if not seen and vantage != "model":
        return {}, None
    shared = folder.tensors("shared.safetensors")
    whole = {name: shared | folder.tensors(f"silos/{name}/local.safetensors") for name in study.training}
    target, shadows = Watched(seen, shared, whole), dict[int, Watched]()
    kept = study.experiment.audit.transcript
    with engine_for(study, start) as engine:
        for number in range(effort.references):
            shadows[number] = reference(study, engine, number, kept)
            progress(number + 2, "reference models")
        ends = inputs.measured(study, engine, kept, vantage, shadows[0]) if effort.planted else None
    looked = {name: evidence(study, target, shadows, name, vantage) for name in study.training}
    found = {name: its for name, its in looked.items() if its is not None}
    return (membership.measure(found) if found else {}), ends


def _inversion(study: Study, seen: Sequence[Seen], iterations: int) -> tuple[dict[str, Any], Pictures]:
    """{} where inputs are no images, or nothing is shared."""
    if study.data(study.training[0]).train.x.dim() != 4 or not study.bench.method.shared:
        return {}, Pictures()
    found, single = reconstruct.cases(study, seen, study.training, iterations)
    best: list[Attempt] = sorted(single, key=lambda one: -psnr(one.guesses, one.originals))[:SHOWN]
    pictures = Pictures(
        [one.originals[0] for one in best],
        [one.guesses[0] for one in best],
        [f"{one.silo}, {psnr(one.guesses, one.originals):.1f} dB" for one in best],
    )
    note = (
        "An attack helps only where it beats the mean of the validation images, which nobody needs an update for. "
        f"At most {reconstruct.MOST} inputs of an update are tried, each is compared with the row that it is nearest to."
    )
    return {"cases": found, "notes": [note]}, pictures


def _notes(
    experiment: Experiment,
    result: Mapping[str, Any],
    findings: Findings,
    seen: Sequence[Seen],
    effort: Effort,
) -> list[str]:
    notes = [
        f"{len(findings.checks)} checks share a chance of {FAMILY:g} to refute a sound run; bounds are shown at 95 %, each "
        "over looks that were fixed beforehand, and the Gaussian one never refutes by itself.",
        "A bound below the claim proves nothing; 'would have refuted' is the true epsilon from which on one of the two bounds "
        "refutes with a chance of 95 %. Checks of noise, clip and sampling see far less.",
        "The f-DP bound takes a claim for the Gaussian trade-off of its epsilon and delta.",
        f"Membership: {effort.references} reference model{'s' * (effort.references > 1)} on random halves of each silo's training and "
        "test rows. What does not cross is filled in from the first reference.",
    ]
    if not result.get("privacy"):
        notes.append(
            "Nothing is claimed: the run was not private, so conformance and bounds are not measured."
        )
    elif not result["privacy"]["private"]:
        notes.append("Nothing is claimed: the run's noise can be drawn again (privacy.noise = reproducible).")
    elif not experiment.audit.canaries:
        notes.append("The run had no canaries ([audit] canaries), so what they show is not measured.")
    if not seen:
        notes.append("The run kept no messages ([audit] transcript), so what the server saw is not measured.")
    if not effort.roles:
        notes.append("--quick leaves out the table of roles and the planted rows.")
    return notes


def _keep(
    found: Mapping[str, Any], pictures: Pictures, folder: RunFolder, out: Path, study: Study, signer: Any
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    toml = (folder.path / "experiment.toml").read_text()
    RunFolder(out).write_json(AUDIT, found)
    page = audit_page(found, pictures, toml)
    write(out / PAGE, lambda file: file.write_text(page))
    write(out / "experiment.toml", lambda file: file.write_text(toml))
    facts = {
        **{"run": folder.path.name, "fedtl": fedtl.__version__, "torch": torch.__version__},
        "data": {name: its.fingerprint for name, its in sorted(study.promises.items())},
        "ledgers": {name: head(its.book, its.dataset) for name, its in sorted(study.promises.items())},
        "violations": found["violations"],
    }
    bundle.sign(out, [AUDIT, PAGE, "experiment.toml"], facts, signer)


def _peak() -> float:
    """Of this process and the largest of its children, in MiB."""
    kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(kib / 1024, 1)
