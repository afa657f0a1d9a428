"""
The files that a site's silo.toml names besides those that every site's folder has, for a backup. A backup holds those that are inside
the folder; it never holds the rows and ``key_file``.
"""

from pathlib import Path, PurePosixPath

from fedtl._util.toml_text import parse_toml
from fedtl.data.settings import SCALES
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.settings import HomeSettings, settings_of_table
from fedtl.errors import ConfigError
from fedtl.models.folder_files import CONFIG, TOKENIZER, WEIGHTS

MAX_NAMED_BYTES = 8 << 30  # of all these files together


def files_to_back_up(home: Home) -> tuple[dict[str, Path], tuple[str, ...]]:
    """
    Return the named files by their path in the folder, and a sentence for each one that a backup does not hold: it is elsewhere, behind
    a link, hidden, or the files together have more than ``MAX_NAMED_BYTES``.
    """
    apart = {home.at(path).resolve() for path in (home.settings.data.path, home.settings.key_file) if path}
    files: dict[str, Path] = {}
    left_out = []
    total = 0
    for setting, written in _named(home.settings).items():
        path, name = home.at(written), _inside(written)
        if not path.is_file() or path.resolve() in apart or name in files:
            continue
        if name is None or path.resolve() != home.path.resolve() / name:
            left_out.append(f"{setting} = {written!r}: only files inside the folder are backed up")
            continue
        total += path.stat().st_size
        if total > MAX_NAMED_BYTES:
            left_out.append(
                f"{setting} = {written!r}: a backup holds at most {MAX_NAMED_BYTES:,} bytes of such files"
            )
            continue
        files[name] = path
    return files, tuple(left_out)


def paths_named_in(silo_toml: bytes) -> frozenset[str]:
    """Return the paths inside the folder that the content of a silo.toml names; none for one that cannot be read."""
    try:
        settings = settings_of_table(parse_toml(silo_toml, "silo.toml"), Path("silo.toml"))
    except (ValueError, ConfigError):
        return frozenset()
    return frozenset(name for path in _named(settings).values() if (name := _inside(path)))


def _named(settings: HomeSettings) -> dict[str, str]:
    """Return the path of each file by its setting, as silo.toml writes it."""
    named = {"certificate": settings.certificate, "weights": settings.weights, "public": settings.public}
    if settings.data.scale not in SCALES:
        named["data.scale"] = settings.data.scale
    if settings.model_folder:
        for file in (CONFIG, TOKENIZER, WEIGHTS):
            named[f"model_folder, {file}"] = f"{settings.model_folder}/{file}"
    return {setting: path for setting, path in named.items() if path}


def _inside(path: str) -> str | None:
    """Return a relative path in its plain form; None for one that leads elsewhere or has a hidden part."""
    plain = PurePosixPath(path)
    elsewhere = plain.is_absolute() or path.startswith("~") or not plain.parts
    return None if elsewhere or any(part.startswith(".") for part in plain.parts) else plain.as_posix()
