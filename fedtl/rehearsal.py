"""
Before anything is signed: a dry run of one round on random rows of the agreed schema, and one page of what would
leave, what stays, and under which promise. The institution's own rows are counted at most.
"""

import json
import tempfile
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedtl import stricter
from fedtl.agreement import Agreement, agree
from fedtl.attend import allowed
from fedtl.data import prepare
from fedtl.durable import write_bytes
from fedtl.errors import ConfigError, DataError, Denied, Refused
from fedtl.experiment.file import load
from fedtl.home.approvals import HASH, Approval, approve, code_hash
from fedtl.home.folder import Home
from fedtl.messages import Task, Update
from fedtl.place import Place
from fedtl.planning import terms
from fedtl.policy import verdict
from fedtl.privacy.charge import foresee
from fedtl.provision.bundle import agreement_in
from fedtl.report.rehearsal import page, text
from fedtl.silo import SiloData, nobody
from fedtl.study import tensor_table

ROWS = 64  # random ones; as many as a small site has
DRY = "rehearsal"
UNKNOWN: dict[str, Any] = {"privacy": None, "rows": None, "tuning": None}  # until the rows are looked at


def rehearse(home: Home, what: Path | str) -> tuple[dict[str, Any], Path]:
    """
    The page's facts, and where its text stands (the HTML is beside it). ``what``: a bundle, which can be approved
    afterwards, or an experiment. Raises ConfigError.
    """
    its, bundle, name = _asked(home, what)
    place = Place(home, its)
    facts = _facts(place, bundle, name)
    stem = home.path / "rehearsed" / (bundle or its.hash)
    write_bytes(stem.with_suffix(".txt"), text(facts).encode(), private=True)
    write_bytes(stem.with_suffix(".html"), page(facts).encode(), private=True)
    write_bytes(stem.with_suffix(".json"), json.dumps(facts).encode(), private=True)
    if bundle:  # kept for fedtl silo audit
        write_bytes(stem.with_suffix(".fab"), Path(what).read_bytes(), private=True)
    return facts, stem.with_suffix(".txt")


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
    if facts["code"] != code_hash():
        raise ConfigError("fedtl was changed since the rehearsal: rehearse again")
    one = Approval(bundle, facts["plan"], facts["manifest"], facts["code"])
    home.record.note("approved", **asdict(one), tensors=facts["tensors"], privacy=facts["privacy"])
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
    own: dict[str, Any] = {
        key: getattr(here, key) for key in ("source", "label", "silo_column", "domain_column")
    }
    own |= {"path": str(home.at(here.path)) if here.path else "", "silos": [], "late": [], "scale": "none"}
    lines = [f"data.{key}={json.dumps(value)}" for key, value in own.items()]
    experiment = load(str(what), [*lines, 'model.weights=""', "model.pretrain_on=[]"])
    raw = prepare.read(experiment.data, here.silo or home.settings.name)
    shape, classes = prepare.shape_after(raw, experiment.data), prepare.classes(raw, experiment.data)
    return agree(experiment, shape, classes, "", False), "", path.stem


def _facts(place: Place, bundle: str, name: str) -> dict[str, Any]:
    its, home = place.agreement, place.home
    refused = ""
    try:
        place.check()
        _dry_run(place)
        _affordable(place)
    except Refused as reason:
        refused = str(reason)
    facts = {
        "site": place.name,
        "server": home.settings.server,
        "study": name,
        "bundle": bundle,
        "plan": its.hash,
        "code": code_hash(),
        "refused": refused,
        "method": its.experiment.method.name,
        "model": its.experiment.model.name,
        "shape": its.shape,
        "rounds": its.experiment.rounds,
        "minimum_silos": its.experiment.minimum_silos,
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
        "stays": [{key: row[key] for key in ("name", "role", "shape")} for row in table if not row["leaves"]],
        "bytes": manifest.bytes,
        "manifest": manifest.hash,
        **_promised(place),
    }


def _promised(place: Place) -> dict[str, Any]:
    """The promise for the site's own rows, of which this asks how many there are."""
    about = {"private": place.privacy is not None, "tuning": place.privacy and place.privacy.tuning}
    try:
        data = place.prepared().data
    except (DataError, ConfigError) as error:
        return {**UNKNOWN, **about, "rows_error": str(error)}
    own = place.home.settings.policy.privacy
    if own is None:
        return {**about, "privacy": None, "rows": len(data.train)}
    told = {
        "lifetime_epsilon": own.lifetime_epsilon,
        "from_plan": stricter.taken(place.agreement.experiment, own),
    }
    promise = place.promise(place.study(data.classes), data)
    return {**about, "privacy": terms(promise) | told, "rows": len(data.train)}


def _affordable(place: Place) -> None:
    """Whether the rows' ledger would let a first round through. Writes no ledger. Raises BudgetExhausted, Refused."""
    if not place.privacy or not place.home.ledger.exists():
        return
    try:
        data = place.prepared().data
    except (DataError, ConfigError):  # the page says so
        return
    foresee(place.promise(place.study(data.classes), data))


def _dry_run(place: Place) -> Update:
    """One round on random rows, with the verdict on what came of it. Raises Denied."""
    study, its = place.empty, place.agreement.experiment
    classes = tuple(place.agreement.classes) or ("0", "1")
    known = () if its.data.task == "regression" else classes
    several = place.privacy is not None and place.privacy.unit != "record"
    rows = nobody(ROWS, place.agreement.shape, known, len(place.agreement.shape) == 3, several)
    target = rows.x if study.method.needs_target else None
    data = SiloData(rows, rows, known, target)
    shared, local = study.bench.partition.split(study.bench.initial(data.width))
    task = Task(DRY, 1, its.rounds, its.seed, shared)
    with tempfile.TemporaryDirectory() as folder:
        silo = place.silo(study, data, Path(folder) / "ledger.sqlite")
        update = allowed(place, study.bench.fit(replace(silo, local=local), task))
    verdict(update, task, place.terms, place.policy, place.released, place.name)
    return update
