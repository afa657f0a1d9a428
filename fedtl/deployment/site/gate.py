"""
Asks the coordinator's gate, from the site: whether it answers, what time it is there, and whether it knows the site's key. The request
takes the way that Flower's connection takes: through the proxy of the environment, if there is one.
"""

import ssl
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from fedtl.deployment.certificates import MIN_DAYS, days_left, validity
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.keys import fingerprint, public_key_pem, read_public_key
from fedtl.errors import ConfigError

NOT_ADMITTED = "this key is not admitted"  # the gate's answer to any other key
KEY_HEADER = "flwr-public-key"
AS_FLOWER = {
    "Content-Type": "application/protobuf"
}  # otherwise the SuperLink logs an error for each question
LOCAL = ("127.0.0.1", "localhost")  # never through a proxy
MAX_CLOCK_SKEW = 60.0  # seconds; Flower refuses a site from 300 on
CONNECT_SECONDS = 5.0
WAIT_SECONDS = 5.0  # between two questions whether the key is admitted
OUT_OF_TIME = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


class GateUnreachable(ConfigError):
    """The gate does not answer: it may not run yet."""


class CertificateOutOfTime(ConfigError):
    """The gate's certificate is not valid yet or not any more, by this machine's clock."""


@dataclass(frozen=True)
class GateReply:
    """``time``: of the gate's clock, in seconds since 1970; None where the reply has no date."""

    status: int
    text: str
    time: float | None


def ask_gate(home: Home, path: str = "/", key: str = "") -> GateReply:
    """
    Return the gate's reply. ``key``: an OpenSSH public key, to which the gate answers as to a call of a SuperNode without a
    signature. Raises GateUnreachable, CertificateOutOfTime, and ConfigError where the gate has another certificate.
    """
    server, authority = home.settings.server, home.at(home.settings.certificate)
    if not authority.is_file():
        raise ConfigError(f"not checked, because {authority.name} is missing")
    proxies: dict[str, str] | None = (
        {} if server.rpartition(":")[0] in LOCAL else None
    )  # None: those of the environment
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(authority))),
    )
    headers = {KEY_HEADER: b64encode(public_key_pem(key)).decode(), **AS_FLOWER} if key else {}
    request = urllib.request.Request(f"https://{server}{path}", b"" if key else None, headers)
    try:
        with opener.open(request, timeout=CONNECT_SECONDS) as reply:
            return GateReply(reply.status, reply.read(4096).decode(errors="replace"), _time(reply.headers))
    except urllib.error.HTTPError as error:
        with error:
            return GateReply(error.code, error.read(4096).decode(errors="replace"), _time(error.headers))
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            if reason.verify_code in OUT_OF_TIME:
                raise CertificateOutOfTime(
                    f"{server}: {reason.verify_message} by this machine's clock, which says {time.strftime('%Y-%m-%d %H:%M')}; set "
                    "the clock (NTP), or ask the coordinator for a new certificate"
                ) from error
            raise ConfigError(
                f"{server}: {reason.verify_message}; either {authority.name} is of another coordinator, or server in "
                "silo.toml has the wrong host name"
            ) from error
        raise GateUnreachable(
            f"cannot connect to {server}: {reason}; check server in silo.toml, the proxy and the firewall"
        ) from error


def _time(headers: object) -> float | None:
    date = getattr(headers, "get", lambda name: None)("date")
    return parsedate_to_datetime(date).timestamp() if date else None


def clock_skew(home: Home) -> float:
    """Return by how many seconds the site's clock is ahead of the gate's. Raises ConfigError where that cannot be known."""
    at = ask_gate(home).time
    if at is None:
        raise ConfigError("the server's reply has no date, so the clocks cannot be compared")
    return time.time() - at


def warnings_before_connecting(home: Home) -> list[str]:
    """
    Return what keeps the site from connecting, or soon will: its clock, or a certificate that ends. Other errors are Flower's to report.
    """
    found = []
    try:
        days = days_left(home.at(home.settings.certificate))
        if days < MIN_DAYS:
            found.append(validity(home.settings.certificate, days, "ask the coordinator for a new one"))
        if abs(skew := clock_skew(home)) > MAX_CLOCK_SKEW:
            found.append(clock_text(skew))
    except CertificateOutOfTime as error:
        found.append(str(error))
    except (ConfigError, OSError):
        pass
    return found


def clock_text(skew: float) -> str:
    text = f"the clock differs from the server's by {skew:+.0f} s"
    return f"{text}; synchronise it (NTP)" if abs(skew) > MAX_CLOCK_SKEW else text


def not_admitted(home: Home) -> str | None:
    """Return what to do where the gate refuses the site's key; None otherwise. Raises ConfigError where it cannot be asked."""
    key = read_public_key(home.path / "node.key.pub")
    if NOT_ADMITTED not in ask_gate(home, "/v1/fleet/activate-node", key).text:
        return None
    return (
        f"the coordinator has not admitted this site's key ({fingerprint(key)}), or has expelled it; ask the coordinator to run "
        "fedtl server admit"
    )


def wait_until_admitted(
    home: Home, note: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """
    Wait while the gate does not answer or refuses the site's key. ``note`` is called with each new reason. Other errors are Flower's to
    report.
    """
    noted = ""
    while True:
        try:
            reason = not_admitted(home)
        except GateUnreachable as error:
            reason = str(error)
        except (ConfigError, OSError):
            return
        if reason is None:
            return
        if reason != noted:
            note(f"{reason}; waiting")
            noted = reason
        sleep(WAIT_SECONDS)
