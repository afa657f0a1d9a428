"""What a data steward asks a home: is it ready, what happened, what was spent, did anything else leave."""

import shutil
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from fedtl._util.files import write_bytes
from fedtl.data.checks import count_unlabelled
from fedtl.deployment import certificates
from fedtl.deployment.site import covered, keys, paid
from fedtl.deployment.site import privacy_policy as stricter
from fedtl.deployment.site.approvals import approvals, code_hash, earlier
from fedtl.deployment.site.data_settings import read_without_plan
from fedtl.deployment.site.egress_log import exported, read_export
from fedtl.deployment.site.home import PRIVATE, Home
from fedtl.deployment.site.site_plan import device_of
from fedtl.errors import ConfigError, FedTLError
from fedtl.privacy.hash_chain import HashChainFile
from fedtl.privacy.ledger_lines import BudgetChanged, LedgerLine, Opened
from fedtl.privacy.verify import find_faults, find_uncharged, study_costs, unconfirmed_rows

DISK = 1 << 30  # bytes that should be free
SKEW = 60.0  # seconds that clocks may differ; Flower's own limit is 300
SOON = 30.0  # days
PATIENCE = 5.0  # seconds for the server to answer


def check(home: Home) -> list[tuple[str, bool, str]]:
    """Each thing, whether it is in order, and what it is or what to do."""
    tests: dict[str, Callable[[], str]] = {
        "file modes": lambda: _modes(home),
        "data": lambda: _rows(home),
        "device": lambda: f"{device_of(home.settings.device)}, threads = {home.settings.threads}",
        "key": lambda: _key(home),
        "certificate": lambda: _certificate(home),
        "connection": lambda: _connection(home),
        "clock": lambda: _clock(home),
        "disk": lambda: _disk(home),
        "encryption": lambda: _encryption(home),
        "approvals": lambda: _approvals(home),
        "ledger": lambda: _books(home),
    }
    found = []
    for name, test in tests.items():
        try:
            found.append((name, True, test()))
        except (FedTLError, OSError, ValueError) as error:
            found.append((name, False, str(error)))
    return found


def _modes(home: Home) -> str:
    for path in (home.path, *(home.path / file for file in PRIVATE), *home.path.glob("*.sqlite*")):
        keys.check_private(path)
    return "nobody else can read the folder"


def _rows(home: Home) -> str:
    raw = read_without_plan(home)
    parts = [f"{len(raw.train.y)} rows"]
    if raw.target is not None:
        parts.append(f"{len(raw.target)} rows of the second domain")
    if missing := count_unlabelled(raw.train):
        parts.append(f"{missing} rows without a label, which train nothing")
    return f"{', '.join(parts)}; fedtl silo rehearse compares their inputs with a plan"


def _key(home: Home) -> str:
    public = home.path / "node.key.pub"
    if not keys.fits(home.path / "node.key", public):
        raise ConfigError(f"{public} is not node.key's other half; make both anew and have it admitted")
    return f"node.key fits {public.name}, which the coordinator admits"


def _certificate(home: Home) -> str:
    path = home.at(home.settings.certificate)
    if not path.is_file():
        raise ConfigError(f"{path} is not there: get ca.crt from the coordinator, by a way that you trust")
    left = certificates.days_left(path)
    if left < SOON:
        raise ConfigError(f"{path} ends in {left:.0f} days: ask the coordinator for a new one")
    return f"valid for {left:.0f} days"


def _answer(home: Home) -> bytes:
    """What the gate answers to a call that it does not let through: its clock is in it."""
    host, _, port = home.settings.server.rpartition(":")
    authority = home.at(home.settings.certificate)
    if not authority.is_file():
        raise ConfigError(f"cannot be tried without {authority.name}")
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with (
            socket.create_connection((host, int(port)), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=host) as line,
        ):
            line.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return line.recv(4096)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{home.settings.server}: {error.verify_message}; ca.crt is another coordinator's, or the name is wrong"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{home.settings.server} cannot be reached: {error}; check address and firewall"
        ) from error


def _connection(home: Home) -> str:
    if b" 404 " not in _answer(home).split(b"\r\n", 1)[0]:
        raise ConfigError(
            f"{home.settings.server} answers, but not as a gate does: is it the coordinator's gate?"
        )
    return f"{home.settings.server} answers, and the certificate is its own"


def _clock(home: Home) -> str:
    for line in _answer(home).decode("latin-1").split("\r\n"):
        if line.lower().startswith("date:"):
            skew = time.time() - parsedate_to_datetime(line[5:].strip()).timestamp()
            if abs(skew) > SKEW:
                raise ConfigError(f"{skew:+.0f} s against the server's: set the clock (NTP)")
            return f"{skew:+.0f} s against the server's"
    raise ConfigError("the server told no time")


def _disk(home: Home) -> str:
    free = shutil.disk_usage(home.path).free
    if free < DISK:
        raise ConfigError(f"{free:,} bytes are free; make room for {DISK:,}")
    return f"{free / 2**30:.0f} GiB are free"


def _encryption(home: Home) -> str:
    if not home.settings.key_file:
        return "state/ is in the clear (no key_file): use an encrypted disk"
    assert home.memory.seal
    return "state/ is encrypted; ledger.sqlite, which has the last private reply, is not"


def _approvals(home: Home) -> str:
    found = approvals(home.approved)
    if old := earlier(home.approved):
        raise ConfigError(f"{', '.join(bundle[:12] for bundle in old)}: {covered.EARLIER}")
    if not found:
        raise ConfigError("nothing is approved, so nothing will run: fedtl silo rehearse, then approve")
    if old := [one.bundle[:12] for one in found if one.code != code_hash()]:
        raise ConfigError(f"{', '.join(old)} was approved with another fedtl: {covered.AGAIN}")
    states = covered.standings(home)
    over = [f"{one.bundle[:12]} is {one.over} ({one})" for one in states if one.over]
    if over and len(over) == len(states):
        raise ConfigError(f"{', '.join(over)}: {covered.AGAIN}")
    return "; ".join([f"bundles approved: {len(found)}", *over])


def _books(home: Home) -> str:
    paid.check(home)
    return f"every private update of the record is charged in it; datasets: {', '.join(paid.ledgers(home)) or 'none yet'}"


def status(home: Home) -> dict[str, Any]:
    """Round, last contact, budget spent and left, bytes out; ``privacy``: the numbers last approved, and whose they are."""
    lines = home.record.lines()
    met = [line for line in lines if line["what"] in ("received", "sent", "refused")]
    sent = [line for line in lines if line["what"] == "sent"]
    refusals = [line for line in lines if line["what"] == "refused"]
    last = sent[-1] if sent else {}
    return {
        "name": home.settings.name,
        "study": last.get("study"),
        "round": last.get("round", 0),
        "last_contact": met[-1]["at"] if met else None,
        "bytes_out": sum(line["bytes"] for line in sent),
        "updates": len(sent),
        "refusals": len(refusals),
        "last_refusal": refusals[-1]["reason"] if refusals else None,
        "approved": {one.bundle: str(one) for one in covered.standings(home)},
        "privacy": numbers(home),
        "budget": budget(home),
        "gaps": paid.gaps(home),
    }


def numbers(home: Home) -> dict[str, str]:
    """Of the promise that was last approved, and whose each is; {} where that is none."""
    approved = [line.get("privacy") for line in home.record.lines() if line["what"] == "approved"]
    return stricter.told(approved[-1]) if approved and approved[-1] else {}


def budget(home: Home) -> dict[str, Any] | None:
    """
    Of the rows, all studies together; None where nothing was ever charged, nor may be. ``spent``: all plans, whole, from each
    study's first round on; ``charged``: what the rounds so far come to. ``new``: another dataset is in the ledger, and nobody
    has said that these are other people's rows.
    """
    books, own = paid.ledgers(home), home.settings.policy.privacy
    lines = books.get(home.dataset, [])
    if own is None and not lines:
        return None
    studies = study_costs(lines)
    limits = [line.entry.epsilon for line in lines if isinstance(line.entry, Opened | BudgetChanged)]
    spent = sum(its.epsilon for its in studies.values())
    lifetime = [own.lifetime_epsilon if own else 0.0, *limits][-1]
    return {
        "dataset": home.dataset,
        "spent": spent,
        "charged": sum(its.charged for its in studies.values()),
        "lifetime": lifetime,
        "left": max(0.0, lifetime - spent),
        "rounds": {name: its.round for name, its in studies.items()},
        "waiting": unconfirmed_rows(lines),
        "new": bool(books) and not lines,
    }


def history(home: Home) -> list[dict[str, Any]]:
    """Every line of the egress record, then of the privacy ledger; ``book``: which of them it is in."""
    ledger = [line.as_json() for line in paid.ledgers(home).get(home.dataset, [])]
    books = {"record": home.record.lines(), "ledger": ledger}
    return [{"book": name, **line} for name, lines in books.items() for line in lines]


def export(home: Home, path: Path) -> int:
    """The record, and after an empty line each the ledger's datasets, as lines that anybody can check; how many."""
    lines = list(home.record.export())
    for dataset in paid.ledgers(home):
        lines += ["", *exported(HashChainFile(home.ledger), dataset)]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode(), private=True)
    return len([line for line in lines if line])


def _summed(
    lines: Sequence[Mapping[str, Any]], ledgers: Mapping[str, Sequence[LedgerLine]]
) -> dict[str, Any]:
    """Of lines whose chains hold; ``ledgers``: each dataset's."""
    odd = covered.uncovered(lines)
    sent = [line for line in lines if line["what"] == "sent"]
    faults = [fault for ledger in ledgers.values() for fault in find_faults(ledger)]
    waiting = [unconfirmed_rows(ledger) for ledger in ledgers.values()]
    return {
        "lines": len(lines) + sum(map(len, ledgers.values())),
        "updates": len(sent),
        "bytes_out": sum(line["bytes"] for line in sent),
        "outside": odd,
        "unpaid": [*find_uncharged(sent, ledgers), *faults],
        "waiting": next(filter(None, waiting), ""),
    }


def verify_home(home: Home) -> dict[str, Any]:
    """
    Chains, manifest, that the privacy ledger's arithmetic holds for what left, and that neither record nor ledger has
    forgotten what the other files of the folder show. Raises LedgerDamaged.
    """
    facts = _summed(home.record.lines(), paid.ledgers(home))
    known = {f"record {text}" for text in facts["unpaid"]}
    return facts | {"unpaid": [*facts["unpaid"], *(gap for gap in paid.gaps(home) if gap not in known)]}


def verify_export(path: Path) -> dict[str, Any]:
    """The same from an export alone. Raises LedgerDamaged."""
    return _summed(*read_export(path))
