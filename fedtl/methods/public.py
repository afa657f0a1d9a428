"""Which methods need inputs that all may see, and who reads them."""

from fedtl.methods.base import Method
from fedtl.methods.feddf import DistilOnServer


def server_reads(method: Method) -> bool:
    """Return whether the server reads public inputs."""
    return isinstance(method.server, DistilOnServer)


def silos_read(method: Method) -> bool:
    """Return whether every silo reads public inputs."""
    phases = any(phase.public for phase in method.phases)
    return phases or any(summary.on_public for summary in method.summaries)


def needs_public(method: Method) -> bool:
    """Return whether the method cannot work without public inputs."""
    return server_reads(method) or silos_read(method)
