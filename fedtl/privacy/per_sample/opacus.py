"""Imports opacus late, because it takes seconds, and without the log handler that it adds to the root logger."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fedtl.errors import ConfigError


@contextmanager
def opacus_for(what: str) -> Iterator[None]:
    """Import opacus inside this context. Raises ConfigError if it is not installed, which says that ``what`` needs it."""
    handlers = list(logging.root.handlers)
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{what} needs opacus: pip install 'fedtl[privacy]'") from error
    finally:
        logging.root.handlers[:] = handlers
