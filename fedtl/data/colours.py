"""
What the numbers of a picture mean as colours: those of its embedded profile (ICC) or of its gamma (PNG) become those of sRGB, as
every viewer shows them. Without either they are taken for sRGB already.
"""

from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from fedtl.data.source import Array
from fedtl.errors import DataError

if TYPE_CHECKING:
    from PIL import Image, ImageCms

SPACES = {"L": ("GRAY", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}  # by mode, profiles that fit it
ROUNDING = 2  # levels of 255: a profile that moves no colour further is that of sRGB
USUAL_GAMMA = 1 / 2.2
NEAR = 0.05  # relative; gammas this near the usual one are written for sRGB
STEPS = 6  # of each channel, at which a profile is tried


def in_srgb(image: "Image.Image", path: object) -> "Image.Image":
    """Return an image of 8 bits in grey ("L"), colours ("RGB") or inks ("CMYK") in the grey or the colours of sRGB. Raises DataError."""
    mode = "L" if image.mode == "L" else "RGB"
    if transform := _transform_of(image, path):
        shown = transform.apply(image.convert(transform.input_mode))
        return shown.convert(mode)
    image = image.convert(mode)
    gamma = _unusual_gamma(image)
    return image if gamma is None else image.point(_to_srgb(gamma) * len(image.getbands()))


def array_in_srgb(pixels: Array, profile: bytes, path: object) -> Array:
    """Return colours [H, W, 3] of uint8 that this profile describes as those of sRGB. Raises DataError."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.info["icc_profile"] = profile
    return np.asarray(in_srgb(image, path))


def check_plain(image: "Image.Image", path: object) -> None:
    """Raise DataError for a grey image of more than 8 bits whose numbers are not those of sRGB: they could not be converted in full."""
    if _unusual_gamma(image) is not None or _transform_of(image, path) is not None:
        raise DataError(
            f"{path} has a colour profile or a gamma of its own, which fedtl converts at 8 bits only; save it with 8 bits, or without "
            "the profile, or set data.pixel_range to read its numbers as they are"
        )


def _transform_of(image: "Image.Image", path: object) -> "ImageCms.ImageCmsTransform | None":
    """Return what converts the image from its embedded profile; None without one, and where it is that of sRGB. Raises DataError."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    from PIL import ImageCms

    mode = image.mode if image.mode in SPACES else "L"
    try:
        return _transform(bytes(profile), mode)
    except (ImageCms.PyCMSError, OSError) as error:
        raise DataError(
            f"{path} has a colour profile that cannot be read; save it as sRGB, or without a profile"
        ) from error


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> "ImageCms.ImageCmsTransform | None":
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space not in SPACES[mode]:  # viewers do not use a profile of another kind of numbers either
        return None
    given = mode if space == "GRAY" or mode == "CMYK" else "RGB"
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), given, "RGB")
    return None if mode != "CMYK" and _changes_nothing(transform, given) else transform


def _changes_nothing(transform: "ImageCms.ImageCmsTransform", mode: str) -> bool:
    from PIL import Image

    levels = np.linspace(0, 255, STEPS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    grey = np.arange(256, dtype=np.uint8)[None]
    tried = Image.fromarray(grey if mode == "L" else grid)
    moved = np.asarray(transform.apply(tried)).astype(int) - np.asarray(tried.convert("RGB"))
    return int(np.abs(moved).max()) <= ROUNDING


def _unusual_gamma(image: "Image.Image") -> float | None:
    """Return the gamma that a PNG states, where it is neither about that of sRGB nor replaced by another statement."""
    gamma = image.info.get("gamma")
    if not gamma or "srgb" in image.info or image.info.get("icc_profile"):
        return None
    return None if abs(gamma / USUAL_GAMMA - 1) < NEAR else float(gamma)


def _to_srgb(gamma: float) -> list[int]:
    """Return the level of sRGB for each of 256 levels that are light to the power of ``gamma`` (IEC 61966-2-1)."""
    light = np.linspace(0, 1, 256) ** (1 / gamma)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    levels: list[int] = (255 * shown).round().astype(int).tolist()
    return levels
