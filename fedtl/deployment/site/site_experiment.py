"""Combines an agreement with a site's own settings into the experiment that the site runs. Reads no rows."""

from hashlib import file_digest

from fedtl.data.settings import ELSEWHERE, NOISE, PREPARED
from fedtl.deployment.plan import Agreement
from fedtl.deployment.site.data_settings import settings_to_train
from fedtl.deployment.site.home import Home
from fedtl.errors import Denied
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment, PrivacySettings
from fedtl.federation.policy import Code
from fedtl.methods.base import own_labels
from fedtl.methods.public import silos_read

# Makes every normalisation layer work with differential privacy. Nothing is trained under these settings.
DP_READY = PrivacySettings(epsilon=1.0)
MAX_SHOWN = 80  # characters of what a plan says


def site_experiment(home: Home, agreement: Agreement, privacy: PrivacySettings | None) -> Experiment:
    """
    Return the agreed experiment with the site's rows, weights and engine. ``privacy``: what the site trains under; None:
    without differential privacy. Raises ConfigError, Denied.
    """
    table = agreement.experiment.model_dump(exclude_none=True)
    data = settings_to_train(home, agreement.experiment.data, _classes(home, agreement))
    table["data"] = data.model_dump(exclude_none=True)
    table["model"]["weights"] = _weights(home, agreement)
    table["data"]["public"] = _public(home, agreement)
    table["engine"] = {"name": "serial", "threads": home.settings.threads}
    if settings := privacy or (DP_READY if agreement.dp_ready else None):
        table["privacy"] = settings.model_dump(exclude_none=True)
    return parse_experiment(table)


def _classes(home: Home, agreement: Agreement) -> list[str]:
    """The declared labels: of a shared head those agreed on; of a local head the site's own, or else the plan's."""
    common = agreement.experiment
    if not own_labels(method_of(common.method)):
        return list(agreement.classes)
    return home.settings.data.classes or common.data.classes


def _public(home: Home, agreement: Agreement) -> list[str]:
    """
    Return ``data.public``: the site's own file where the method reads public inputs at every site, named by its hash in the plan, or
    noise. Raises Denied for another file, and for a plan that names rows or files itself: these could be the site's own.
    """
    entries = agreement.experiment.data.public
    if entries != [ELSEWHERE] and not all(entry.startswith(f"{NOISE}:") for entry in entries):
        raise Denied(
            Code.PLAN,
            f"the plan reads data.public = {', '.join(entries)[:MAX_SHOWN]} at this site; only noise, and a file that the plan names by its "
            "hash, may be read",
        )
    if entries != [ELSEWHERE] or not silos_read(method_of(agreement.experiment.method)):
        return entries
    path = _agreed_file(home, "public", home.settings.public, agreement.public, "trains on public inputs")
    return [f"{PREPARED}:{path}"]


def _weights(home: Home, agreement: Agreement) -> str:
    """Return the path of the agreed file of initial weights, "" without one. Raises Denied for another file."""
    if not agreement.base:
        return ""
    return _agreed_file(
        home, "weights", home.settings.weights, agreement.base, "starts from a file of weights"
    )


def _agreed_file(home: Home, key: str, setting: str, agreed: str, what: str) -> str:
    """Return the path of a file that a plan names by its hash. Raises Denied for another file."""
    path = home.at(setting)
    if not setting or not path.is_file():
        raise Denied(
            Code.PLAN, f"the plan {what} with hash {agreed[:12]}; set {key} in silo.toml to that file"
        )
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    if digest != agreed:
        raise Denied(
            Code.PLAN,
            f"{key}: {path} has hash {digest[:12]}; the plan {what} with hash {agreed[:12]}; set {key} in silo.toml to that file",
        )
    return str(path)
