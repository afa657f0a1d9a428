"""
Before anything is signed: a dry run of one round on random rows of the agreed schema, and one page of who asks, what would
leave, what stays, and under which privacy guarantee. The institution's own rows are counted at most.
"""

import json
import tempfile
from dataclasses import asdict, replace
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedtl._util.files import write_bytes
from fedtl._util.records import to_plain
from fedtl.data import prepare
from fedtl.data.columns import declared_columns
from fedtl.data.dataset import SiloDataset
from fedtl.data.origins import DECLARED
from fedtl.data.settings import AGREED, RowSettings
from fedtl.data.synthetic import synthetic_rows
from fedtl.deployment.coordinator.bundle import agreement_in
from fedtl.deployment.plan import Agreement, agree, with_columns
from fedtl.deployment.site import covered, paid, signing
from fedtl.deployment.site import privacy_policy as stricter
from fedtl.deployment.site.answer_round import allowed
from fedtl.deployment.site.approvals import HASH, Approval, approve, code_hash
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signed import SignedTerms
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.errors import ConfigError, DataError, Denied, Refused
from fedtl.experiment.config.load import load
from fedtl.experiment.privacy_plan import terms
from fedtl.experiment.study import parts_of, tensor_table
from fedtl.federation.policy import check_update
from fedtl.messages import Task, Update
from fedtl.privacy.ledger_reading import check_study_fits
from fedtl.report.rehearsal import page, text

ROWS = 64  # random ones; as many as a small site has
DAYS = 90  # that an approval lasts, unless the steward says otherwise
LONGEST = 3660  # days
DRY = "rehearsal"
# Until the rows are looked at.
UNKNOWN: dict[str, Any] = {"privacy": None, "rows": None, "records": None, "terms": None, "tuning": None}


def rehearse(home: Home, what: Path | str, studies: int = 1, until: str = "") -> tuple[dict[str, Any], Path]:
    """
    The page's facts, and where its text stands (the HTML is beside it). ``what``: a bundle, which can be approved
    afterwards, or an experiment. ``studies`` and ``until``: for how many studies the approval would be, and its last day
    (YYYY-MM-DD, UTC); "": 90 days from now. Raises ConfigError.
    """
    its, bundle, name = _asked(home, what)
    until = _last_day(home, until)
    if studies < 1:
        raise ConfigError(f"--studies {studies}: an approval is for 1 study or more")
    place = SitePlan(home, its)
    stem = home.path / "rehearsed" / (bundle or its.hash)
    facts = _facts(place, bundle, name, studies, until) | {"audit": _audit(stem), "folder": str(home.path)}
    write_bytes(stem.with_suffix(".txt"), text(facts).encode(), private=True)
    write_bytes(stem.with_suffix(".html"), page(facts).encode(), private=True)
    write_bytes(stem.with_suffix(".json"), json.dumps(facts).encode(), private=True)
    if bundle:  # kept for fedtl silo audit
        write_bytes(stem.with_suffix(".fab"), Path(what).read_bytes(), private=True)
    return facts, stem.with_suffix(".txt")


def _last_day(home: Home, until: str) -> str:
    """Raises ConfigError for what is no day, has passed, or is too far away."""
    now = date.fromisoformat(covered.today(covered.history(home.record.lines())))
    if not until:
        return (now + timedelta(days=DAYS)).isoformat()
    try:
        last = date.fromisoformat(until)
    except ValueError as error:
        raise ConfigError(f"--until {until!r} is no day; write it as YYYY-MM-DD") from error
    if not now <= last <= now + timedelta(days=LONGEST):
        raise ConfigError(f"--until {last}: today is {now}; choose a day from then on, within ten years")
    return last.isoformat()


def _audit(stem: Path) -> list[str] | None:
    """The lines that ``fedtl silo audit`` wrote about this bundle; None where it did not run."""
    path = stem.with_suffix(".audit.json")
    if not path.is_file():
        return None
    lines = json.loads(path.read_text())["text"]
    return ["".join(mark if mark.isprintable() else " " for mark in str(line)) for line in lines]


def sign(home: Home, bundle: str) -> Approval:
    """Approve a bundle that was rehearsed here, as it was shown. Raises ConfigError, Denied."""
    if not HASH.fullmatch(bundle):
        raise ConfigError(
            f"{bundle[:80]!r} is no hash: fedtl silo rehearse prints the bundle's, 64 characters"
        )
    path = home.path / "rehearsed" / f"{bundle}.json"
    if not path.is_file():
        raise ConfigError(
            f"bundle {bundle[:12]} was never rehearsed here: fedtl silo rehearse {home.path} FILE.fab"
        )
    facts = json.loads(path.read_text())
    if facts["refused"]:
        raise Denied("plan", f"the policy refuses this plan: {facts['refused']}")
    if facts["code"] != code_hash() or "terms" not in facts:
        raise ConfigError("fedtl was changed since the rehearsal: rehearse again")
    if facts["terms"] is None:
        raise ConfigError(
            f"the page is not complete: {facts['rows_error']}; rehearse again once the rows can be read"
        )
    signed = SignedTerms.model_validate(facts["terms"])
    if covered.today(covered.history(home.record.lines())) > signed.until:
        raise ConfigError(f"the page was for an approval until {signed.until}: rehearse again")
    return record_approval(home, bundle, signed, facts["tensors"], facts["privacy"])


def record_approval(
    home: Home,
    bundle: str,
    signed: SignedTerms,
    tensors: list[dict[str, Any]],
    privacy: dict[str, Any] | None,
) -> Approval:
    """Write the signed terms whole into the record, and the approval into the list of what runs here."""
    one = Approval(bundle, signed.plan, signed.manifest, code_hash(), signed.hash)
    home.record.note("approved", **asdict(one), signed=signed.model_dump(), tensors=tensors, privacy=privacy)
    approve(home.approved, one)
    return one


def _asked(home: Home, what: Path | str) -> tuple[Agreement, str, str]:
    """The agreement, the bundle's hash, and the name; of an experiment alone, on the schema of the site's own rows."""
    path = Path(what)
    if path.suffix == ".fab":
        content = path.read_bytes()
        name, its = agreement_in(content, str(path))
        return its, sha256(content).hexdigest(), name
    here = home.settings.data
    own: dict[str, Any] = {key: getattr(here, key) for key in RowSettings.model_fields if key not in AGREED}
    own |= {"path": str(home.at(here.path)) if here.path else "", "silos": [], "late": [], "scale": "none"}
    lines = [f"data.{key}={json.dumps(value)}" for key, value in own.items()]
    experiment = load(str(what), [*lines, 'model.weights=""', "model.pretrain_on=[]"])
    silo = here.silo or home.settings.name
    raw = prepare.read_silo(experiment.data, silo)
    shape, classes = prepare.input_shape(raw, experiment.data), prepare.silo_classes(raw, experiment.data)
    if experiment.privacy or home.settings.policy.privacy:  # a list of the rows' own labels is not agreed on
        classes = prepare.declared_classes(experiment.data)
    experiment = with_columns(experiment, silo, shape, raw.columns)
    return agree(experiment, shape, classes, "", False), "", path.stem


def _facts(place: SitePlan, bundle: str, name: str, studies: int, until: str) -> dict[str, Any]:
    its, here = place.agreement, place.home.settings.data
    refused = ""
    try:
        place.check()
        _dry_run(place)
        place.check_origins()
        _affordable(place)
    except Refused as reason:
        refused = str(reason)
    facts = {
        "site": place.name,
        "server": place.home.settings.server,
        "asked_by": its.experiment.request.by,
        "purpose": its.experiment.request.purpose,
        "study": name,
        "studies": studies,
        "until": until,
        "bundle": bundle,
        "plan": its.hash,
        "code": code_hash(),
        "refused": refused,
        "method": its.experiment.method.name,
        "model": its.experiment.model.name,
        "shape": its.shape,
        "columns": [str(column) for column in declared_columns(its.experiment.data)],
        "source": here.source,
        "path": here.path,
        "label": here.label,
        "rounds": its.experiment.rounds,
        "minimum_silos": its.experiment.minimum_silos,
        "norm": place.policy.norm,
        "metrics": []
        if refused
        else sorted(place.policy.metrics if place.released is None else place.released),
        "weight": place.policy.rows and not (refused or place.privacy),
    }
    try:
        manifest, table = place.manifest, tensor_table(place.empty)
    except Denied:
        return facts | {"tensors": [], "stays": [], "bytes": 0, "manifest": "", **UNKNOWN}
    return facts | {
        "tensors": [asdict(line) | {"shape": list(line.shape)} for line in manifest.lines],
        "stays": [
            {"name": row.name, "role": row.role, "shape": list(row.shape)} for row in table if not row.leaves
        ],
        "parts": [asdict(part) for part in parts_of(table)],
        "bytes": manifest.bytes,
        "manifest": manifest.hash,
        **_promised(place, studies, until),
    }


def _promised(place: SitePlan, studies: int, until: str) -> dict[str, Any]:
    """The terms and the privacy guarantee for the site's own rows, of which this asks how many there are."""
    about = {"private": place.privacy is not None, "tuning": place.privacy and place.privacy.tuning}
    try:
        data = place.prepared().data
        own = place.home.settings.policy.privacy
        guarantee = place.guarantee(place.study(data.classes), data) if own else None
        signed = signing.terms(place, data, guarantee, studies, until)
    except (DataError, ConfigError, Refused) as error:
        return {**UNKNOWN, **about, "rows_error": str(error)}
    found = {"rows": len(data.train), "records": signed.records, "terms": signed.model_dump()}
    if guarantee is None or own is None:
        return {**about, **found, "privacy": None}
    told = {
        "lifetime_epsilon": own.lifetime_epsilon,
        "lifetime_delta": own.lifetime_delta,
        "from_plan": stricter.taken(place.agreement.experiment, own),
    }
    return {**about, **found, "privacy": to_plain(terms(guarantee)) | told}


def _affordable(place: SitePlan) -> None:
    """Whether the rows' ledger has room for the whole plan. Makes no ledger. Raises BudgetExhausted, Refused."""
    if not place.privacy:
        return
    paid.check(place.home)
    try:
        data = place.prepared().data
    except (DataError, ConfigError):  # the page says so
        return
    its = place.guarantee(place.study(data.classes), data)
    check_study_fits(its.account, its.plan())


def _dry_run(place: SitePlan) -> Update:
    """One round on random rows, with the verdict on what came of it. Raises Denied."""
    study, its = place.empty, place.agreement.experiment
    classes = tuple(place.agreement.classes) or ("0", "1")
    known = () if its.data.task == "regression" else classes
    several = place.privacy is not None and place.privacy.unit != "record"
    rows = synthetic_rows(ROWS, place.agreement.shape, known, len(place.agreement.shape) == 3, several)
    target = rows.x if study.method.needs_target else None
    data = SiloDataset(rows, rows, known, target, origins=DECLARED)
    shared, local = study.trainer.partition.split(study.trainer.initial(data.width))
    task = Task(DRY, 1, its.rounds, its.seed, shared)
    with tempfile.TemporaryDirectory() as folder:
        silo = place.silo(study, data, Path(folder) / "ledger.sqlite")
        update = allowed(place, study.trainer.fit(replace(silo, local=local), task))
    check_update(update, task, place.terms, place.policy, place.released, place.name)
    return update
