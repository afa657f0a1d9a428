"""
Rehearses a plan before it is approved: a dry run of one round on synthetic rows of the agreed schema, and one page that
says who asks, what would leave, what stays, and under which privacy guarantee. Of the site's own rows only the number is
on the page.
"""

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from fedtl._util.files import write_bytes, write_json
from fedtl.data import prepare
from fedtl.data.columns import declared_columns
from fedtl.data.constants import read_constants_file
from fedtl.data.dataset import SiloDataset
from fedtl.data.origins import DECLARED
from fedtl.data.settings import AGREED, SCALES, RowSettings
from fedtl.data.synthetic import synthetic_rows
from fedtl.deployment.coordinator.bundle import read_agreement
from fedtl.deployment.plan import Agreement, make_agreement, with_column_names
from fedtl.deployment.site.answer_round import without_denied_figures
from fedtl.deployment.site.approvals import code_hash
from fedtl.deployment.site.covered import record_history
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.paid import check_ledger_complete
from fedtl.deployment.site.privacy_policy import values_from_plan
from fedtl.deployment.site.rehearsal import ClaimFacts, Rehearsal, TensorFacts
from fedtl.deployment.site.signing import agreed_mask_classes, present_terms
from fedtl.deployment.site.site_plan import SitePlan, build_study, check_policy, sends_verdict, sent_numbers
from fedtl.deployment.site.site_rows import SiteRows, check_origins, load_rows
from fedtl.deployment.site.site_silo import make_dry_silo, site_guarantee
from fedtl.errors import ConfigError, ConstantsError, DataError, Denied, Refused
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.notes import wire_text
from fedtl.experiment.privacy_report import silo_privacy
from fedtl.experiment.tensor_table import parts_of, tensor_table
from fedtl.federation.policy import TRANSFER, check_update
from fedtl.messages import Task, Update
from fedtl.privacy.ledger_reading import check_study_fits
from fedtl.report.rehearsal import page, text
from fedtl.results.privacy import SiteGuarantee
from fedtl.results.rehearsal import PlanFacts, RequestFacts, StayingTensor

SYNTHETIC_ROWS = 64  # about as many as a small site has
DEFAULT_DAYS = 90  # of an approval
MAX_DAYS = 3660
DRY_STUDY = "rehearsal"
RowsError = DataError | ConfigError | Refused


@dataclass(frozen=True)
class RequestedPlan:
    """``bundle``: the hash of the bundle; "" for an experiment. ``name``: of the experiment."""

    agreement: Agreement
    bundle: str
    name: str


def rehearse(home: Home, source: Path | str, studies: int = 1, until: str = "") -> tuple[Rehearsal, Path]:
    """
    Return the facts of the page, and the path of its text; the HTML is next to it. ``source``: a bundle, which can be
    approved afterwards, or an experiment. ``studies`` and ``until``: how many studies the approval would be for, and its
    last day (YYYY-MM-DD in UTC); "": in 90 days. Raises ConfigError; Refused where the site's file of scaling constants is broken.
    """
    _check_constants_file(home)
    requested = read_requested_plan(home, source)
    until = _last_day(home, until)
    if studies < 1:
        raise ConfigError(f"--studies {studies}: an approval must be for 1 study or more")
    plan = SitePlan(home, requested.agreement)
    stem = home.path / "rehearsed" / (requested.bundle or requested.agreement.hash)
    rehearsal = _rehearsal(plan, requested, studies, until, _audit_lines(stem))
    facts = rehearsal.facts()
    write_bytes(stem.with_suffix(".txt"), text(facts).encode(), private=True)
    write_bytes(stem.with_suffix(".html"), page(facts).encode(), private=True)
    write_json(stem.with_suffix(".json"), rehearsal.to_json(), private=True)
    if requested.bundle:  # fedtl silo audit reads it from here
        write_bytes(stem.with_suffix(".fab"), Path(source).read_bytes(), private=True)
    return rehearsal, stem.with_suffix(".txt")


def _check_constants_file(home: Home) -> None:
    """Raise Refused where ``data.scale`` is the path of a file that is not there, or is not a TOML file."""
    if home.settings.data.scale in SCALES:
        return
    try:
        read_constants_file(home.at(home.settings.data.scale))
    except ConstantsError as error:
        raise Refused(f"{home.settings.name}: {error}") from error


def _last_day(home: Home, until: str) -> str:
    """Return the last day of the approval. Raises ConfigError where ``until`` is not a date, has passed, or is too far away."""
    today = date.fromisoformat(record_history(home.record.lines()).today)
    if not until:
        return (today + timedelta(days=DEFAULT_DAYS)).isoformat()
    try:
        last = date.fromisoformat(until)
    except ValueError as error:
        raise ConfigError(f"--until {until!r} is not a date; write it as YYYY-MM-DD") from error
    if not today <= last <= today + timedelta(days=MAX_DAYS):
        raise ConfigError(f"--until {last}: choose a day from today ({today}) on, within ten years")
    return last.isoformat()


def _audit_lines(stem: Path) -> list[str] | None:
    """Return the lines that ``fedtl silo audit`` wrote about this bundle; None where it was not run."""
    path = stem.with_suffix(".audit.json")
    if not path.is_file():
        return None
    lines = json.loads(path.read_text())["text"]
    return ["".join(char if char.isprintable() else " " for char in str(line)) for line in lines]


def read_requested_plan(home: Home, source: Path | str) -> RequestedPlan:
    """Return the agreement in a bundle, or the one that an experiment would give on the schema of the site's own rows."""
    path = Path(source)
    if path.suffix == ".fab":
        content = path.read_bytes()
        name, agreement = read_agreement(content, str(path))
        return RequestedPlan(agreement, sha256(content).hexdigest(), name)
    own = home.settings.data
    rows_keys = [key for key in RowSettings.model_fields if key not in AGREED]
    settings: dict[str, Any] = {key: getattr(own, key) for key in rows_keys}
    settings |= {"pixel_range": own.pixel_range} if own.pixel_range else {}
    settings |= {"path": str(home.at(own.path)) if own.path else "", "missing_labels": own.missing_labels}
    silo = own.silo or home.settings.name
    settings |= {"silos": [], "late": [], "scale": "none", "unlabelled": [silo] if own.unlabelled else []}
    overrides = [f"data.{key}={json.dumps(value)}" for key, value in settings.items()]
    experiment = load_experiment(str(source), [*overrides, 'model.weights=""', "model.pretrain_on=[]"])
    raw = prepare.read_silo(experiment.data, silo)
    shape, classes = prepare.input_shape(raw, experiment.data), prepare.silo_classes(raw, experiment.data)
    if experiment.privacy or home.settings.policy.privacy or own.unlabelled:
        # The labels that occur in private rows, or are not used, must not be agreed on.
        classes = prepare.declared_classes(experiment.data)
    experiment = with_column_names(experiment, prepare.stored_name(experiment.data, silo), shape, raw.columns)
    return RequestedPlan(make_agreement(experiment, shape, classes, "", False), "", path.stem)


def _rehearsal(
    plan: SitePlan, requested: RequestedPlan, studies: int, until: str, audit: list[str] | None
) -> Rehearsal:
    rows = _try_load_rows(plan)
    refused = _refusal_reason(plan, rows)
    return Rehearsal(
        request=_request_facts(plan, requested, studies, until),
        plan=_plan_facts(plan, bool(refused)),
        tensors=_tensor_facts(plan),
        claim=_claim_facts(plan, rows, studies, until),
        refused=refused,
        audit=audit,
        folder=str(plan.home.path),
    )


def _try_load_rows(plan: SitePlan) -> SiteRows | RowsError:
    try:
        return load_rows(plan)
    except ConstantsError as error:  # a page could only be signed after the file was changed
        raise Refused(f"{plan.name}: {error}") from error
    except (DataError, ConfigError, Refused) as error:  # the page says so
        return error


def _refusal_reason(plan: SitePlan, rows: SiteRows | RowsError) -> str:
    """Return why the site would refuse the plan; "" where it would not. Creates no ledger and charges nothing."""
    try:
        check_policy(plan)
        dry_run(plan)
        if isinstance(rows, SiteRows):
            check_origins(plan, rows.data)
        if plan.privacy:
            check_ledger_complete(plan.home)
            if isinstance(rows, SiteRows):
                guarantee = site_guarantee(plan, build_study(plan, rows.data.classes), rows)
                check_study_fits(guarantee.account, guarantee.plan())
    except Refused as refused:
        return str(refused)
    return ""


def _request_facts(plan: SitePlan, requested: RequestedPlan, studies: int, until: str) -> RequestFacts:
    request = plan.agreement.experiment.request
    return RequestFacts(
        site=plan.name,
        server=plan.home.settings.server,
        asked_by=request.by,
        purpose=request.purpose,
        study=requested.name,
        studies=studies,
        until=until,
        bundle=requested.bundle,
        plan=plan.agreement.hash,
        code=code_hash(),
    )


def _plan_facts(plan: SitePlan, refused: bool) -> PlanFacts:
    experiment, own, policy = plan.agreement.experiment, plan.home.settings.data, plan.policy
    metrics: frozenset[str] = frozenset()
    if not refused:
        metrics = policy.metrics if plan.released_metrics is None else plan.released_metrics
    return PlanFacts(
        method=experiment.method.name,
        model=experiment.model.name,
        shape=plan.agreement.shape,
        columns=[str(column) for column in declared_columns(experiment.data)],
        source=own.source,
        path=own.path,
        label=own.label,
        rounds=experiment.rounds,
        minimum_silos=experiment.minimum_silos,
        norm=policy.max_update_norm,
        metrics=sorted(metrics - {TRANSFER}),  # its numbers are listed by name
        weight=policy.share_row_count and not (refused or plan.privacy),
        wire=wire_text(experiment.wire),
        verdict=not refused and sends_verdict(plan),
        numbers={} if refused else sent_numbers(plan),
        masks=agreed_mask_classes(experiment),
        files=plan.agreement.files,
    )


def _tensor_facts(plan: SitePlan) -> TensorFacts:
    try:
        manifest, table = plan.manifest, tensor_table(plan.dry_study)
    except Denied:
        return TensorFacts()
    staying = [StayingTensor(row.name, row.role, list(row.shape)) for row in table if not row.leaves]
    return TensorFacts(manifest, staying, parts_of(table))


def _claim_facts(plan: SitePlan, rows: SiteRows | RowsError, studies: int, until: str) -> ClaimFacts:
    """The terms and the privacy guarantee for the site's own rows."""
    try:
        privacy = plan.privacy
    except Denied:
        return ClaimFacts()
    facts = ClaimFacts(private=privacy is not None, tuning=privacy.tuning if privacy else None)
    if not isinstance(rows, SiteRows):
        return replace(facts, rows_error=str(rows))
    own, data = plan.home.settings.policy.privacy, rows.data
    try:
        guarantee = site_guarantee(plan, build_study(plan, data.classes), rows) if own else None
        signed = present_terms(plan, data, guarantee, studies, until)
    except (DataError, ConfigError, Refused) as error:
        return replace(facts, rows_error=str(error))
    facts = replace(facts, rows=len(data.train), records=signed.records, terms=signed, unlabelled=data.hidden)
    if guarantee is None or own is None:
        return facts
    claimed = SiteGuarantee(
        **asdict(silo_privacy(guarantee)),
        lifetime_epsilon=own.lifetime_epsilon,
        lifetime_delta=own.lifetime_delta,
        from_plan=tuple(values_from_plan(plan.agreement.experiment, own)),
    )
    return replace(facts, privacy=claimed)


def dry_run(plan: SitePlan) -> Update:
    """Compute one round on synthetic rows, and check the update as a real one is checked. Raises Denied."""
    study, agreement, task = plan.dry_study, plan.agreement, plan.experiment.data.predicted
    classes = (tuple(agreement.classes) or ("0", "1")) if task.has_classes else ()
    has_units = plan.privacy is not None and plan.privacy.unit != "record"
    pixels = len(agreement.shape) > 2
    rows = synthetic_rows(SYNTHETIC_ROWS, agreement.shape, classes, pixels, has_units, task)
    target = rows.x if study.method.needs_target else None
    data = SiloDataset(rows, rows, classes, target, origins=DECLARED, task=task)
    if plan.home.settings.data.unlabelled:
        none = rows.take(torch.arange(0))
        data = SiloDataset(none, none, classes, rows.x, origins=DECLARED, one_domain=True, task=task)
    shared, local = study.trainer.partition.split(study.trainer.initial(data.width))
    asked = Task(DRY_STUDY, 1, agreement.experiment.rounds, agreement.experiment.seed, shared)
    with tempfile.TemporaryDirectory() as folder:
        silo = make_dry_silo(plan, study, data, Path(folder) / "ledger.sqlite")
        trained = study.trainer.fit(replace(silo, local=local), asked)
    update = without_denied_figures(trained, plan.policy)
    check_update(update, asked, plan.terms, plan.policy, plan.released_metrics, plan.name)
    return update
