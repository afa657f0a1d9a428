"""Combines an agreement with a site's own settings into the experiment that the site runs. Reads no rows."""

from pathlib import Path

from fedtl._util.files import sha256_of
from fedtl.data.settings import ELSEWHERE, NOISE, PREPARED
from fedtl.deployment.plan import Agreement
from fedtl.deployment.site.data_settings import settings_to_train
from fedtl.deployment.site.home import Home
from fedtl.errors import Denied
from fedtl.experiment.config.known_tasks import SEGMENTATION
from fedtl.experiment.config.load import parse_experiment
from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment, PrivacySettings
from fedtl.experiment.head_in_rounds import head_of_plan
from fedtl.federation.policy import Code
from fedtl.methods.base import own_labels
from fedtl.methods.public import silos_read
from fedtl.models.folder_files import CONFIG, FOLDER, TOKENIZER, WEIGHTS, is_folder_name

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
    table["model"]["name"], table["data"]["tokenizer"] = _text_model(home, agreement)
    table["model"]["weights"] = _weights(home, agreement)
    table["data"]["public"] = _public(home, agreement)
    table["method"] = head_of_plan(agreement.experiment.method).model_dump(exclude_none=True)
    table["engine"] = {"name": "serial", "threads": home.settings.threads}
    if settings := privacy or (DP_READY if agreement.dp_ready else None):
        table["privacy"] = settings.model_dump(exclude_none=True)
    return parse_experiment(table)


def _classes(home: Home, agreement: Agreement) -> list[str]:
    """The declared labels: of a shared head, and of masks, those agreed on; of a local head the site's own, or else the plan's. Raises Denied."""
    common, own = agreement.experiment, home.settings.data.classes
    if common.data.task == SEGMENTATION:  # they are the outputs of one head, and what a mask holds for each
        if own and own != common.data.classes:
            raise Denied(
                Code.PLAN,
                f"the plan's classes are {', '.join(common.data.classes)[:MAX_SHOWN]}, and data.classes of silo.toml has others; list the "
                "plan's, and set data.mask_values to what masks hold for each",
            )
        return common.data.classes
    if not own_labels(method_of(common.method)):
        return list(agreement.classes)
    return own or common.data.classes


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
    """
    Return the path of the agreed file of initial weights, "" without one: the site's ``weights`` or, of a model of text, the file in its
    ``model_folder``. Raises Denied for another file.
    """
    if not agreement.base:
        return ""
    what = "starts from a file of weights"
    if agreement.config and home.settings.model_folder and not home.settings.weights:
        return _agreed_file(
            home, "model_folder", f"{home.settings.model_folder}/{WEIGHTS}", agreement.base, what
        )
    return _agreed_file(home, "weights", home.settings.weights, agreement.base, what)


def _text_model(home: Home, agreement: Agreement) -> tuple[str, str]:
    """
    Return the name of the model, and the path of the tokenizer, "" without one. Of a model of text both are files of this site, whatever
    path the plan names. Raises Denied for other files than those that were agreed on.
    """
    name, folder = agreement.experiment.model.name, home.settings.model_folder
    if is_folder_name(name) != bool(agreement.config) or (agreement.config and not agreement.tokenizer):
        raise Denied(
            Code.PLAN,
            f"the plan's model is {name[:MAX_SHOWN]!r}, and it names no hash of the {CONFIG} and {TOKENIZER} of such a model; ask the "
            "coordinator for a bundle that fedtl server bundle built",
        )
    tokenizer = ""
    if agreement.tokenizer:
        tokenizer = _agreed_file(
            home,
            "model_folder",
            folder and f"{folder}/{TOKENIZER}",
            agreement.tokenizer,
            f"reads text by a {TOKENIZER}",
        )
    if not agreement.config:
        return name, tokenizer
    _agreed_file(
        home,
        "model_folder",
        folder and f"{folder}/{CONFIG}",
        agreement.config,
        f"has the layers of a {CONFIG}",
    )
    return f"{FOLDER}{home.at(folder)}", tokenizer


def _agreed_file(home: Home, key: str, setting: str, agreed: str, what: str) -> str:
    """Return the path of a file that a plan names by its hash. Raises Denied for another file."""
    path: Path = home.at(setting)
    place = "the folder of that file" if key == "model_folder" else "that file"
    if not setting or not path.is_file():
        raise Denied(Code.PLAN, f"the plan {what} with hash {agreed[:12]}; set {key} in silo.toml to {place}")
    if (digest := sha256_of(path)) != agreed:
        raise Denied(
            Code.PLAN,
            f"{key}: {path} has hash {digest[:12]}; the plan {what} with hash {agreed[:12]}; set {key} in silo.toml to {place}",
        )
    return str(path)
