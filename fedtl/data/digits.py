"""
The default source: the 1,797 handwritten digits that come with scikit-learn, divided among six silos, each with a
different simulated scanner. No download. Grey images of 8 x 8 px; about 300 rows per silo.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import DataError

CLASSES = tuple("0123456789")
Scanner = Callable[[Array, np.random.Generator], Array]  # [N, 8, 8] of 0..1 to the same


def plain(images: Array, rng: np.random.Generator) -> Array:
    return images


def inverted(images: Array, rng: np.random.Generator) -> Array:
    return 1 - images


def blurred(images: Array, rng: np.random.Generator) -> Array:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(images, (0, 0.9, 0.9)))


def faint(images: Array, rng: np.random.Generator) -> Array:
    """Low contrast on a grey background, with sensor noise."""
    return 0.45 + 0.2 * images + rng.normal(0, 0.03, images.shape)


def rotated(images: Array, rng: np.random.Generator) -> Array:
    from scipy.ndimage import rotate

    return np.asarray(rotate(images, 40, axes=(1, 2), reshape=False, order=1))


def textured(images: Array, rng: np.random.Generator) -> Array:
    """The digit over a smooth random background."""
    from scipy.ndimage import gaussian_filter

    texture = gaussian_filter(rng.random(images.shape), (0, 1, 1))
    low, high = texture.min((1, 2), keepdims=True), texture.max((1, 2), keepdims=True)
    return np.asarray(np.maximum(images, 0.6 * (texture - low) / (high - low)))


SCANNERS: dict[str, Scanner] = {f.__name__: f for f in (plain, inverted, blurred, faint, rotated, textured)}


def silos(settings: DataSettings) -> Sequence[str]:
    if settings.target_domain and settings.target_domain not in SCANNERS:
        raise DataError(
            f"data.target_domain = {settings.target_domain!r} is not a scanner; there are {', '.join(SCANNERS)}"
        )
    return list(SCANNERS)


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows; with ``target_domain``, half of them come from that scanner and have no labels."""
    if name not in SCANNERS:
        raise DataError(f"data.source = 'digits' has no silo {name!r}; its silos are {', '.join(SCANNERS)}")
    images, labels = read_digits()
    own = numpy_generator("digits").permutation(len(labels))[list(SCANNERS).index(name) :: len(SCANNERS)]
    images, labels = images[own] / 16, labels[own]
    if not settings.target_domain:
        return Raw(Part(_scan(name, name, images), labels))
    half, part = len(labels) // 2, len(labels) // 2 + len(labels) // 3
    new = _scan(settings.target_domain, f"{name}, new", images[half:])
    return Raw(
        Part(_scan(name, name, images[:half]), labels[:half]),
        target=new[: part - half],
        target_test=Part(new[part - half :], labels[part:]),
    )


def read_digits() -> tuple[Array, Array]:
    """
    Return the images [1797, 8, 8] of 0..16 and their labels: what ``sklearn.datasets.load_digits`` reads, without the
    second that importing scikit-learn takes. Raises DataError.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    table = _read_table(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)


@lru_cache(1)  # six silos read this file, each time that a run or a yardstick needs them
def _read_table(path: Path) -> Array:
    table = np.loadtxt(path, delimiter=",")
    table.flags.writeable = False
    return table


def _scan(scanner: str, address: str, images: Array) -> Array:
    scanned = SCANNERS[scanner](images, numpy_generator("scanner", address))
    return (scanned.clip(0, 1) * 255).round().astype(np.uint8)


ABOUT = "1,797 handwritten digits (scikit-learn), divided among six silos with a scanner each; no download"
