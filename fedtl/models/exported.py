"""A folder that ``fedtl export`` wrote, as the start of further training."""

import json
from pathlib import Path

ABOUT = "model.json"


def exported_weights(path: str) -> str:
    """
    Return the file of weights in a folder that ``fedtl export`` wrote, and any other path as it is. Of a mix of models it is the one
    that came of training together, because training cannot start from a mix.
    """
    about = Path(path) / ABOUT
    if not about.is_file():
        return path
    try:
        main = json.loads(about.read_text(encoding="utf-8"))["main"]
    except (OSError, ValueError, KeyError, TypeError):
        return path  # the check of model.weights says that it is not a file
    named = Path(path) / str(main)
    return str(named) if named.parent == Path(path) and named.is_file() else path
