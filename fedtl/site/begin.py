"""How either of a site's processes begins: its files are its own, and what stops it is one line."""

import os
import sys
from collections.abc import Callable

from fedtl.errors import FedTLError


def begin(main: Callable[[], None]) -> None:
    os.umask(0o077)
    try:
        main()
    except FedTLError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
