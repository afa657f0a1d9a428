"""The server's step of a study."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

from fedtl.experiment.config.resolve import server_of
from fedtl.experiment.study import Study
from fedtl.methods.base import Memory, Server
from fedtl.methods.feddf import DistilOnServer, PublicModel
from fedtl.methods.server import ServerStep
from fedtl.training.batches import to_inputs
from fedtl.training.nets import new_net


def server_notes(server: Server, memory: Memory) -> Iterator[str]:
    """Yield a note on the weights that the server learned for silos."""
    if isinstance(server, ServerStep) and server.trusted and memory:
        weights = ", ".join(f"{silo} {weight:.2f}" for silo, weight in sorted(memory.items()))
        yield (
            f"method.server: silos are weighted by how far their updates agree with those of {', '.join(server.trusted)}; in the end by {weights}"
        )


def server_step(study: Study) -> Server:
    """Return the server's step of a study, with a net and the public inputs where it needs them. Raises ConfigError."""
    step, trainer = server_of(study.experiment.method), study.trainer
    if not isinstance(step, DistilOnServer):
        return step
    assert trainer.public is not None  # or the settings were refused
    spec = replace(trainer.spec, body=deepcopy(trainer.spec.body))
    net = new_net(spec, trainer.method.every_term, study.schema.width).to(trainer.device)
    return step.on(PublicModel(net, to_inputs(trainer.public, trainer.device), study.experiment.seed))
