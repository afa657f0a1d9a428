"""What each key of silo.toml and of server.toml does, in one line: for editors, by ``fedtl schema``, and for the reference page."""

from fedtl.data.settings import RowSettings
from fedtl.experiment.config.about import ABOUT

SITE = {
    "name": "under which the coordinator admits this site",
    "server": "HOST:PORT of the coordinator's gate",
    "certificate": "the file of the coordinator's CA certificate; get it in a way that you trust",
    "device": 'where the site trains; "cuda" is an error where there is no GPU, "auto" then uses the CPU',
    "threads": "of torch on the CPU",
    "heartbeat": (
        "seconds between two heartbeats; the server treats a site as disconnected, and accepts its key again, after two that it "
        "missed; Flower accepts 10 to 1800"
    ),
    "port": "on 127.0.0.1, between the processes of this site",
    "hours": 'of the day in which the site trains, such as "20:00-06:00", by this machine\'s clock; "": always',
    "weights": "the file of initial weights, for a plan that names one by its hash",
    "public": "the file of public inputs, for a plan that names one by its hash",
    "model_folder": (
        "the folder of a model of text whose hashes are in the plan: config.json, tokenizer.json and, without weights, "
        "model.safetensors"
    ),
    "key_file": 'the file of 32 bytes that encrypt state/; "": state/ is not encrypted',
    "data.name": (
        'of the dataset, to which the lifetime privacy budget belongs, so do not change it; "": the name that this folder used first'
    ),
    "data.silo": 'the name of these rows in the source; "": the site\'s name',
    "data.split_seed": "of the split, so of which rows are used for training; do not change it",
    "data.unlabelled": "the labels of training and validation rows are not used, whatever the plan says; test labels are used for measurement only",
    "data.classes": "every label that can occur, for a local head; the plan lists those of a shared head; []: those of the plan",
    "data.bounds": (
        'for scale = "dp": { column = [low, high] }; "*" stands for all other columns; {}: those of the approved plan'
    ),
    "policy.roles": (
        'the roles of the tensors that may leave; a plan with adapters sends "adapter" in place of "body", and some methods also '
        '"extra" or "summary"'
    ),
    "policy.methods": "the names of the methods that a plan may use",
    "policy.models": "the names of the models that a plan may train",
    "policy.metrics": (
        'validation metrics that may leave, such as "accuracy", with noise under policy.privacy; "transferability": in the last '
        "round what the first stages are worth here, without noise and never under policy.privacy"
    ),
    "policy.max_bytes_per_round": "the most bytes that may leave in one round",
    "policy.max_update_norm": "the largest Euclidean norm of an update, over all its tensors; a larger one is refused",
    "policy.minimum_silos": "the smallest number of sites that the server must combine; fedtl cannot verify that it does",
    "policy.share_row_count": (
        "whether the number of training rows may leave, as the weight of the update; under policy.privacy it is never sent, but the "
        "coordinator can infer it from the amount of noise"
    ),
    "policy.wire": 'the forms in which weights may be sent: "float32" in full, the others compressed',
    "policy.verdict": (
        "whether one of four words may leave after the last round, which says whether joining helped, if the plan asks for it; never under "
        "policy.privacy"
    ),
    "policy.privacy.epsilon": "the maximum of one study",
    "policy.privacy.lifetime_epsilon": (
        "the maximum of all studies that ever use these rows; a study takes its whole epsilon when it starts"
    ),
    "policy.privacy.delta": 'of one study, the probability that is allowed beyond the factor exp(epsilon); "auto": min(1e-5, 1 / (10 n)) for n units',
    "policy.privacy.lifetime_delta": "the maximum of all studies that ever use these rows",
    "policy.privacy.clip": "the clipping norm of one unit's gradient in a step",
    "policy.privacy.sample_rate": "the probability of each unit in a step; not set: that of the approved plan",
    "policy.privacy.steps": "in one round; not set: those of the approved plan",
    "policy.privacy.rounds": "the maximum of one study; not set: those of the approved plan",
    "policy.privacy.unit": 'what is protected: "record", or a column such as "patient", and then all rows that agree in it together',
    "policy.privacy.statistics": (
        'of norms: "public" (of the initial weights), "dp" (released with noise), or "local-after" (exact, computed at this site '
        "after the last round)"
    ),
}
SERVER = {
    "host": "the host name that sites use to reach the gate; it is in the certificate",
    "listen": 'the address and port of the gate; "0.0.0.0:8443" accepts connections from other machines',
    "port": "of the SuperLink, on 127.0.0.1; never make it reachable from other machines",
    "deadline": "seconds that a round may take; later replies are ignored",
    "grace": "seconds that a round waits for the sites of the round before it that are not connected",
    "tries": "attempts at a round that gets fewer valid replies than minimum_silos",
    "ask_again": "seconds until sites are asked again that are outside their hours, or have not said whether joining helped",
    "verdict_days": "for how many days after a study its sites are asked whether joining helped, where the plan asks",
    "on_stopped": (
        "the words of a command that runs when a study stops, with FEDTL_STUDY and FEDTL_REASON in its environment; []: none"
    ),
}


def site_about() -> dict[str, str]:
    """Return the texts of silo.toml: for the keys of rows that it has in common with an experiment, those of the experiment."""
    rows = (
        path for path in ABOUT if path.startswith("data.") and path.split(".")[1] in RowSettings.model_fields
    )
    return {path: ABOUT[path] for path in rows} | SITE
