"""Reads one picture (PNG, TIFF, JPEG, ...) in the depth that it was written in; what Pillow would cut or guess is refused."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedtl.data.colours import check_plain, in_srgb
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array
from fedtl.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".gif"}
GREY = ("1", "L", "LA")
COLOURS = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
OPAQUE = 255
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED = 0, 2
MASK_MODES = ("1", "L", "P", "I;16", "I;16L", "I;16B")
ORIENTATION, TURNED = (
    0x0112,
    (5, 6, 7, 8),
)  # a tag of EXIF, and its values by which height and width are exchanged
UNSIGNED_32 = "I;32N"  # which Pillow reads as signed


def read_picture(path: Path, settings: DataSettings) -> Array:
    """
    Return a picture as every viewer shows it: [H, W] or [H, W, 3] of uint8, resized to ``data.size``; or [H, W] in its own size
    of uint16 (16 bits a pixel), or, where ``data.pixel_range`` is declared, of int32 or float32. Transparent pictures and
    pictures of several pages are refused. Raises DataError.
    """
    from PIL import Image, ImageOps

    try:
        # By a stream: by a path, Pillow 13 maps an uncompressed TIFF that is to be turned with the wrong width.
        with path.open("rb") as stream, Image.open(stream) as file:
            if (
                count := getattr(file, "n_frames", 1)
            ) > 1 and file.format != "MPO":  # a photograph with a preview
                raise DataError(
                    f"{path} holds {count} images, and fedtl reads one a file; save each as a file"
                )
            _check_depth(file, path, settings)
            white = _white(file)
            inverted = file.format == "TIFF" and _tag(file, PHOTOMETRIC) == WHITE_IS_ZERO
            file.load()
            ImageOps.exif_transpose(file, in_place=True)
            if file.mode == "F" or file.mode.startswith("I"):
                if not settings.pixel_range:
                    check_plain(file, path)
                return _deep(file, path, settings, white, inverted)
            image = of_eight_bits(file, path)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image: {_reason(error)}; replace or remove the file"
        ) from error
    size = settings.size
    return np.asarray(
        image if size == "native" else image.resize((int(size), int(size)), Image.Resampling.BILINEAR)
    )


def read_mask(path: Path) -> Array:
    """
    Return the numbers of a mask [H, W], as the file holds them: of a palette the index, of a black and white picture 0 and 1. Raises
    DataError for colours, whose numbers are not classes.
    """
    from PIL import Image, ImageOps

    try:
        with path.open("rb") as stream, Image.open(stream) as file:
            file.load()
            ImageOps.exif_transpose(file, in_place=True)
            if file.mode not in MASK_MODES:
                raise DataError(
                    f"{path} has pixels of the kind {file.mode}; a mask has one number a pixel: save it as grey (8 or 16 bits) or with a palette"
                )
            return np.asarray(file).astype(np.uint16)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a mask: {error}; replace or remove the file") from error


def palette_of(path: Path) -> dict[int, tuple[int, ...]]:
    """Return the colour of each number in a mask that has been read, of a file with a palette; of others nothing."""
    from PIL import Image

    with path.open("rb") as stream, Image.open(stream) as file:
        colours = file.getpalette("RGB") if file.mode == "P" else None
        numbers = [] if colours is None else np.unique(np.asarray(file)).tolist()
    return {one: tuple((colours or [])[3 * one : 3 * one + 3]) for one in numbers}


def is_turned(path: Path) -> bool:
    """Return whether a picture is shown otherwise than it is stored, from its header."""
    from PIL import Image

    with path.open("rb") as stream, Image.open(stream) as file:
        return file.getexif().get(ORIENTATION, 1) != 1


def write_mask(mask: Array, path: Path) -> None:
    """Write numbers [H, W] of uint16 as a grey PNG, of 8 bits where they fit."""
    from PIL import Image

    Image.fromarray(mask.astype(np.uint8) if mask.max(initial=0) <= OPAQUE else mask).save(path)


def _reason(error: Exception) -> str:
    """Return why Pillow cannot read a file, without the stream in which it found no picture."""
    return "it holds no picture that Pillow knows" if "cannot identify" in str(error) else str(error)


def sides(path: Path) -> tuple[int, int]:
    """Return height and width of a picture, as every viewer shows it, from its header. Raises DataError."""
    from PIL import Image

    try:
        with path.open("rb") as stream, Image.open(stream) as file:
            turned = file.getexif().get(ORIENTATION, 1) in TURNED
            return file.size if turned else (file.height, file.width)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image: {_reason(error)}; replace or remove the file"
        ) from error


def to_grey(pixels: Array) -> Array:
    """Return [H, W] of uint8 for colours [H, W, 3], as Pillow converts them."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))


def _tag(file: "Image.Image", number: int) -> int | None:
    """Return the first value of a TIFF's tag; None where it is absent."""
    value: Any = getattr(file, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value


def _check_depth(file: "Image.Image", path: Path, settings: DataSettings) -> None:
    """Raise DataError where Pillow would read other numbers than the file holds. Before it is decoded."""
    tiles = [tile[3] for tile in getattr(file, "tile", ())]
    raw = {args if isinstance(args, str) else args[0] for args in tiles if args}
    of_ppm = any(
        isinstance(args, tuple) and args[1:] and args[0] == "RGB" and args[1] > OPAQUE
        for args in tiles
        if file.format == "PPM"  # the second is the largest number there, and a text in a JPEG
    )
    deep_tiff_or_png = file.format in ("PNG", "TIFF") and any(";16" in str(one) for one in raw)
    cut = file.mode in (*GREY, *COLOURS) and (deep_tiff_or_png or of_ppm)
    if cut and settings.pixel_bits != 8:
        raise DataError(
            f"{path} has 16 bits in each channel, of which fedtl reads 8 only if data.pixel_bits = 8; set it, or save the rows as "
            "an .npz of uint16"
        )
    if UNSIGNED_32 in raw or (file.mode == "L" and _tag(file, SAMPLE_FORMAT) == SIGNED):
        raise DataError(
            f"{path} has pixels of a type that is not read; save it with 8 or 16 bits, or use an .npz"
        )


def _white(file: "Image.Image") -> int:
    """Return the largest number that a grey picture of more than 8 bits can hold."""
    bits = _tag(file, BITS_PER_SAMPLE) if file.format == "TIFF" else None
    return (1 << bits) - 1 if bits is not None and 8 < bits <= 16 else 65535


def _deep(file: "Image.Image", path: Path, settings: DataSettings, white: int, inverted: bool) -> Array:
    """Return uint16 of 0..65535; with a declared range, the numbers as they are."""
    values = np.asarray(file)
    declared = bool(settings.pixel_range)
    sixteen_bits = file.mode.startswith("I;16") or file.format in ("PNG", "PPM")
    if not sixteen_bits:
        if not declared or inverted:
            kind = "floating-point" if file.mode == "F" else "32-bit or signed"
            raise DataError(
                f"{path} has {kind} pixels of unknown range; set data.pixel_range = [low, high], or save it with 8 or 16 bits, black "
                "as 0"
            )
        return values
    pixels = np.asarray(values, np.int64)
    pixels = white - pixels if inverted else pixels
    if declared:
        return pixels.astype(np.uint16)
    scaled = (pixels * 65535 + white // 2) // white
    return (scaled >> 8).astype(np.uint8) if settings.pixel_bits == 8 else scaled.astype(np.uint16)


def of_eight_bits(file: "Image.Image", path: object) -> "Image.Image":
    """
    Return the image in grey ("L") or colours ("RGB") of sRGB. Raises DataError for transparency and for colours that Pillow
    guesses.
    """
    if file.mode not in (*GREY, *COLOURS):
        raise DataError(f"{path} has colours of the kind {file.mode}; save it as RGB or grey")
    if file.has_transparency_data and file.convert("RGBA").getchannel("A").getextrema() != (OPAQUE, OPAQUE):
        raise DataError(
            f"{path} is transparent in places, so its pixels depend on the background; save it without transparency"
        )
    made = "L" if file.mode in GREY else "CMYK" if file.mode == "CMYK" else "RGB"
    return in_srgb(file.convert(made), path)
