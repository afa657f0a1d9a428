"""
Lists the wheels of a folder with their hashes in its requirements.txt, so that a machine without a network installs exactly these:

    python -m pip install --no-index --find-links wheelhouse --require-hashes -r wheelhouse/requirements.txt

``make wheelhouse`` fills the folder and calls this.
"""

import sys
from hashlib import sha256
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename


def requirements(folder: Path) -> str:
    """Return a line for each wheel. Raises ValueError for a file that is no wheel, and for two versions of one package."""
    lines: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name == "requirements.txt":
            continue
        try:
            name, version, *_ = parse_wheel_filename(path.name)
        except InvalidWheelFilename as error:
            raise ValueError(f"{path} is not a wheel: {error}; remove it") from error
        if name in lines:
            raise ValueError(f"{folder} has two wheels of {name}; remove one")
        lines[name] = f"{name}=={version} --hash=sha256:{sha256(path.read_bytes()).hexdigest()}"
    return "".join(f"{line}\n" for line in lines.values())


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        text = requirements(folder)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    (folder / "requirements.txt").write_text(text)
    print(f"{len(text.splitlines())} wheels; install them with: {(__doc__ or '').split('    ')[1].strip()}")


if __name__ == "__main__":
    main()
