"""
Write the rows of an experiment with one silo in which frozen public statistics fail.

500 public digits, 1,000 training digits of another scanner (gain, offset, gamma, blur and sensor noise) and 297 test digits
of that scanner, as ``public.npz`` and ``scanner.npz``. Run: python scanner.py FOLDER [SEED]
"""

import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter
from sklearn.datasets import load_digits

PUBLIC, TRAIN = 500, 1000
BRIGHTEST = 5.1  # the largest value of the scanner; public digits have values from 0 to 1


def write(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bunch = load_digits()
    order = rng.permutation(len(bunch.target))
    images, labels = bunch.images[order] / 16, bunch.target[order]
    test = PUBLIC + TRAIN
    seen = _scanned(images[PUBLIC:], rng)
    folder.mkdir(parents=True, exist_ok=True)
    public = {"train_x": _pixels(images[:PUBLIC]), "train_y": labels[:PUBLIC]}
    np.savez(folder / "public.npz", **public, test_x=public["train_x"], test_y=public["train_y"])
    np.savez(
        folder / "scanner.npz",
        train_x=_pixels(seen[:TRAIN]),
        train_y=labels[PUBLIC:test],
        test_x=_pixels(seen[TRAIN:]),
        test_y=labels[test:],
    )


def _scanned(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    bright = 3 * images**1.7 + 1
    blurred = uniform_filter(bright, (0, 3, 3), mode="constant")
    return 0.5 * blurred + 0.5 * bright + rng.normal(0, 0.3, images.shape)


def _pixels(images: np.ndarray) -> np.ndarray:
    return (images / BRIGHTEST * 255).round().clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
