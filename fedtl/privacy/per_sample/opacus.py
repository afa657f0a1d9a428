"""How opacus is loaded: late, for it takes seconds, and without its writing everybody's log to stderr."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fedtl.errors import ConfigError


@contextmanager
def opacus_for(what: str) -> Iterator[None]:
    """Import it in here. Raises ConfigError where it is not installed, with what needs it."""
    handlers = list(logging.root.handlers)
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{what} needs opacus: pip install 'fedtl[privacy]'") from error
    finally:
        logging.root.handlers[:] = handlers
