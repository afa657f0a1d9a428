"""What the coordinator says in which rounds a site took part: the file that ``fedtl server rounds`` writes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtl.errors import ConfigError

MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class SeenRounds:
    """Of one study. ``counted``: the rounds in which the site's update counted. ``last``: the last round that it was asked for."""

    counted: Sequence[int]
    last: int


def read_seen_rounds(path: Path, site: str) -> dict[str, SeenRounds]:
    """Return the rounds of a site by study. Raises ConfigError, also where the file is of another site."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        content = json.loads(path.read_text())
        if content["site"] != site:
            raise ValueError(f"it is of site {content['site']!r}, not of {site!r}")
        return {
            str(study): SeenRounds([int(number) for number in rounds["counted"]], int(rounds["last"]))
            for study, rounds in content["studies"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not hold the rounds of this site: {error}; the coordinator writes it: fedtl server rounds DIR {site} --out FILE"
        ) from error
