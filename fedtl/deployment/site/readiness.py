"""Checks whether a site is ready to take part: files, rows, device, keys, connection, clock, disk, approvals, ledger."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from fedtl.data.labels import without_label
from fedtl.deployment.certificates import MIN_DAYS, certificate_fingerprint, days_left, validity
from fedtl.deployment.running import MIN_FREE_BYTES
from fedtl.deployment.site.approvals import bundles_approved_without_terms, code_hash, read_approvals
from fedtl.deployment.site.covered import APPROVE_AGAIN, APPROVED_WITHOUT_TERMS, approval_uses
from fedtl.deployment.site.data_settings import has_masks, read_without_plan
from fedtl.deployment.site.gate import MAX_CLOCK_SKEW, ask_gate, clock_skew, clock_text, not_admitted
from fedtl.deployment.site.home import SECRET_FILES, Home
from fedtl.deployment.site.keys import check_private, keys_match
from fedtl.deployment.site.paid import check_ledger_complete
from fedtl.deployment.site.site_plan import choose_device
from fedtl.errors import ConfigError, FedTLError
from fedtl.privacy.ledger_reading import read_ledgers


@dataclass(frozen=True)
class ReadinessCheck:
    """``text``: what was checked, or what to do."""

    name: str
    ok: bool
    text: str


def check_readiness(home: Home) -> list[ReadinessCheck]:
    """Run every check, whatever the others return."""
    tests: dict[str, Callable[[Home], str]] = {
        "file modes": _file_modes,
        "data": _rows,
        "device": lambda home: f"{choose_device(home.settings.device)}, threads = {home.settings.threads}",
        "key": _key,
        "certificate": _certificate,
        "connection": _connection,
        "clock": _clock,
        "disk": _disk,
        "hours": lambda home: home.settings.hours or "it trains at all hours",
        "encryption": _encryption,
        "approvals": _approvals,
        "ledger": _ledger,
    }
    checks = []
    for name, test in tests.items():
        try:
            checks.append(ReadinessCheck(name, True, test(home)))
        except (FedTLError, OSError, ValueError) as error:
            checks.append(ReadinessCheck(name, False, str(error)))
    return checks


def _file_modes(home: Home) -> str:
    for path in (home.path, *(home.path / file for file in SECRET_FILES), *home.path.glob("*.sqlite*")):
        check_private(path)
    return "only the owner can read the folder"


def _rows(home: Home) -> str:
    raw = read_without_plan(home)
    parts = [f"{len(raw.train.y)} images with masks" if has_masks(raw) else f"{len(raw.train.y)} rows"]
    if raw.target is not None:
        parts.append(f"{len(raw.target)} rows of the second domain")
    if home.settings.data.unlabelled:
        parts.append("labels of training and validation rows are not used")
    elif missing := 0 if has_masks(raw) else int(without_label(raw.train.y).sum()):
        used = (
            "are inputs only"
            if home.settings.data.missing_labels == "inputs"
            else "are not used for training"
        )
        parts.append(f"{missing} rows without a label, which {used}")
    return f"{', '.join(parts)}; fedtl silo rehearse compares their inputs with a plan"


def _key(home: Home) -> str:
    if not keys_match(home.path / "node.key", home.path / "node.key.pub"):
        raise ConfigError(
            "node.key.pub does not match node.key; run fedtl silo init in a new folder and ask the coordinator to admit the new key"
        )
    return "node.key matches node.key.pub, which the coordinator must admit"


def _certificate(home: Home) -> str:
    path = home.at(home.settings.certificate)
    if not path.is_file():
        raise ConfigError(f"{path} is missing; get ca.crt from the coordinator in a way that you trust")
    days = days_left(path)
    text = validity(str(path), days, "ask the coordinator for a new one")
    if days < MIN_DAYS:
        raise ConfigError(text)
    return f"{text}; fingerprint, to compare with the coordinator's by telephone: {certificate_fingerprint(path)}"


def _connection(home: Home) -> str:
    if ask_gate(home).status != 404:
        raise ConfigError(
            f"{home.settings.server} answers, but is not a coordinator's gate; check server in silo.toml"
        )
    if reason := not_admitted(home):
        raise ConfigError(reason)
    return f"{home.settings.server} answers, its certificate is valid, and it knows this site's key"


def _clock(home: Home) -> str:
    skew = clock_skew(home)
    if abs(skew) > MAX_CLOCK_SKEW:
        raise ConfigError(clock_text(skew))
    return clock_text(skew)


def _disk(home: Home) -> str:
    free = shutil.disk_usage(home.path).free
    if free < MIN_FREE_BYTES:
        raise ConfigError(f"{free:,} bytes are free; at least {MIN_FREE_BYTES:,} are needed")
    return f"{free / 2**30:.0f} GiB are free"


def _encryption(home: Home) -> str:
    if not home.settings.key_file:
        return "state/ is not encrypted (key_file is not set); use an encrypted disk"
    assert home.states.encryption
    return "state/ is encrypted; ledger.sqlite, which holds the last private reply, is not"


def _approvals(home: Home) -> str:
    approvals = read_approvals(home.approved)
    if old := bundles_approved_without_terms(home.approved):
        raise ConfigError(f"{', '.join(bundle[:12] for bundle in old)}: {APPROVED_WITHOUT_TERMS}")
    if not approvals:
        raise ConfigError("no bundle is approved, so nothing will run: fedtl silo rehearse, then approve")
    if old := [approval.bundle[:12] for approval in approvals if approval.code != code_hash()]:
        raise ConfigError(f"{', '.join(old)}: approved with another version of fedtl; {APPROVE_AGAIN}")
    uses = approval_uses(home)
    over = [f"{use.bundle[:12]} is {use.over} ({use})" for use in uses if use.over]
    if over and len(over) == len(uses):
        raise ConfigError(f"{', '.join(over)}: {APPROVE_AGAIN}")
    return "; ".join([f"approved bundles: {len(approvals)}", *over])


def _ledger(home: Home) -> str:
    check_ledger_complete(home)
    datasets = ", ".join(read_ledgers(home.ledger)) or "none yet"
    return f"it has a charge for every private update of the record; datasets: {datasets}"
