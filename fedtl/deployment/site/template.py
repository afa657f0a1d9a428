"""The ``silo.toml`` that a new home begins with: what is asked for most is on, everything else is refused."""

TEMPLATE = """\
# What this institution has, and what it allows. Only fedtl on this machine reads this file; nobody else sees it.

name = {name}                 # as the coordinator admits it
server = {server}             # HOST:PORT of the coordinator's gate
certificate = "ca.crt"        # the coordinator's, got by a way that you trust
device = "auto"               # auto | cpu | cuda; cuda without a GPU is an error, auto is not
threads = 1
heartbeat = 30                # seconds between two signs of life; after a crash the key is refused for twice as long
port = 9094                   # on 127.0.0.1, between the processes of this machine
weights = ""                  # a file of first weights, where a plan names its hash
key_file = ""                 # 32 bytes: encrypts state/ at rest (head -c 32 /dev/urandom > FILE; chmod 600 FILE)

[data]
name = {name}                 # of the dataset: its budget, over all studies and for ever, hangs on it; leave it as it is
source = "table"              # digits | npz | images | table: fedtl data
path = "data"                 # relative to this folder
silo = ""                     # the rows' name in the source; "" = name
label = "label"
split = 0                     # fixes which rows are trained on; leave it as it is
val = 0.1
test = 0.2
# classes = ["no", "yes"]     # every label that can occur; under [policy.privacy] a head of this site's own needs it
# scale = "constants.toml"    # under [policy.privacy]: [age] mean = 60, std = 12; or "none"; or "dp", with bounds:
# bounds = {{ age = [0, 110], "*" = [-5, 5] }}

[policy]                      # whatever is not listed is refused; what is looser than the page that was signed, too
roles = ["body", "aux", "norm"]      # what may leave; head and stats are not in it
methods = ["fedtl"]
models = ["convnet", "mlp"]
metrics = []                  # validation figures that may leave, such as "accuracy"; under [policy.privacy] with noise, charged
bytes = 50_000_000            # a round
norm = 1000.0                 # the largest update, in the Euclidean norm
minimum_silos = 3             # fewer must not be aggregated; that they are not is the server's word
rows = false                  # may the number of training rows leave, as the weight of the mean? (with [policy.privacy] never,
                              # but the coordinator can infer it from the size of the noise: the number is public under the claim)

[policy.privacy]              # without this table no private plan runs, and updates leave without differential privacy
epsilon = 3.0                 # the most for one study, for every record
unit = "record"               # or the column that says whose row it is, such as "patient"
lifetime_epsilon = 10.0       # the most for these rows, all studies together, for ever; a study takes its whole epsilon at its start
lifetime_delta = 1e-4
delta = "auto"                # of one study: min(1e-5, 1/(10 n))
clip = 1.0
statistics = "public"         # "dp": the norms' statistics are released with noise; "local-after": exact, at home, afterwards
# Without these three the plan's own numbers hold, as the rehearsal shows them and as you approve them:
# sample_rate = 0.05          # of each record (or unit), in every step
# steps = 20                  # of a round
# rounds = 20                 # the most to take part in, in one study
"""
