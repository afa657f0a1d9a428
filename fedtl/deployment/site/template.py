"""The ``silo.toml`` that ``fedtl silo init`` writes: it sets what most sites need and allows nothing else."""

TEMPLATE = """\
# What this institution has, and what it allows to leave. Only fedtl on this machine reads this file; it is never sent.

name = {name}               # the name under which the coordinator admits this site
server = {server}  # HOST:PORT of the coordinator's gate
certificate = "ca.crt"        # the coordinator's CA certificate; get it in a way that you trust
device = "auto"               # auto | cpu | cuda; "cuda" is an error where there is no GPU, "auto" then uses the CPU
threads = 1
heartbeat = 30                # seconds; after a crash the server refuses this site's key for two heartbeats
port = 9094                   # on 127.0.0.1, between the processes of this site
hours = ""                    # of the day in which this site trains, by this machine's clock, such as "20:00-06:00"; "" means always
weights = ""                  # the file of initial weights, for a plan that starts from one
public = ""                   # the file of public inputs, for a plan whose method distils on some at every site (fedmd)
model_folder = ""             # config.json, tokenizer.json and model.safetensors, for a plan with a model of text (hf-folder)
key_file = ""                 # 32 bytes that encrypt state/ (head -c 32 /dev/urandom > FILE; chmod 600 FILE)

[data]
name = {name}               # of the dataset; the lifetime privacy budget belongs to this name, so do not change it
source = "table"              # digits | npz | images | table; see: fedtl data
path = "data"                 # relative to this folder
silo = ""                     # the name of these rows in the source; "" means the site's name
label = "label"               # the column with the labels
split_seed = 0                # decides which rows are used for training; do not change it
val = 0.1                     # share of the rows for validation
test = 0.2                    # share of the rows for the final test
# unlabelled = true          # labels of training and validation rows are not used; test labels are used for measurement only
# missing_labels = "inputs"  # rows with an empty label are inputs without labels; without this line such rows are refused
# classes = ["no", "yes"]     # every label that can occur; needed for a local head with [policy.privacy]
# scale = "constants.toml"    # needed with [policy.privacy]: a file such as [age] mean = 60, std = 12; or "none"; or "dp":
# bounds = {{ age = [0, 110], "*" = [-5, 5] }}   # for scale = "dp"; "*" means every other column

[policy]                      # what is not listed is refused; so is what is looser than the page that was signed
roles = ["body", "aux", "norm"]      # the tensors that may leave. Not listed here: "head"; "stats"; "adapter", which leaves in place of
                              # "body" in a plan with adapters; "extra" and "summary", which some methods send in addition to
                              # the model, such as "extra" for scaffold
methods = ["fedtl"]
models = ["convnet", "mlp"]
metrics = []                  # validation metrics that may leave, such as "accuracy"; with [policy.privacy] they are sent
                              # with noise and use up privacy budget. "transferability": in the last round, where the plan asks
                              # for it, what the first stages of the model are worth here; without noise, and never with
                              # [policy.privacy]
max_bytes_per_round = 50_000_000
max_update_norm = 1000.0      # Euclidean norm of an update; a larger update is refused
wire = ["float32"]            # forms in which the weights may be sent: "float32" in full; compressed: "bf16", "int8", "top-k", "sign"
minimum_silos = 3             # the server must combine at least this many sites; fedtl cannot verify that it does
share_row_count = false       # true: the number of training rows may leave, as the weight of the update; with [policy.privacy]
                              # it is never sent, but the coordinator can infer it from the amount of noise
verdict = false               # true: after the last round one word may leave, where the plan asks for it: whether joining helped (gains,
                              # as good, loses or unclear, on the test rows); refused together with [policy.privacy]

[policy.privacy]              # without this table, private plans are refused and updates leave without differential privacy
epsilon = 3.0                 # maximum of one study
unit = "record"               # what is protected: each record, or a column such as "patient": all rows of one patient
lifetime_epsilon = 10.0       # maximum for these rows over all studies; a study takes its whole epsilon when it starts
lifetime_delta = 1e-4         # maximum for these rows over all studies
delta = "auto"                # of one study; "auto": min(1e-5, 1/(10 n)) for n training rows
clip = 1.0                    # maximum norm of one unit's gradient in a step
statistics = "public"         # normalisation statistics. "public": those of the initial weights; "dp": released with noise;
                              # "local-after": exact, computed at this site after the last round
# If you leave out the next three, the plan's own values hold, as the rehearsal shows them and as you approve them:
# sample_rate = 0.05          # probability of each record (or unit) in a step
# steps = 20                  # in a round
# rounds = 20                 # maximum of one study
"""
