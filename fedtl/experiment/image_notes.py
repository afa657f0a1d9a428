"""Notes about images and series: what ``data.size`` does to images, how bright they are, how large their pixels are, and how long steps."""

from collections.abc import Iterator, Mapping

from fedtl.data.image_sizes import CHANGED
from fedtl.data.series import UNEVEN
from fedtl.data.settings import DataSettings
from fedtl.experiment.by_silo import by_silo
from fedtl.experiment.data_schema import SiloSchema

DARK = 16  # an image whose brightest pixel is below this share of the range, 1/16, is nearly black
MIN_SHARE = 0.05  # of the images of a silo; fewer do not change a result much


def image_notes(data: DataSettings, silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    """Yield the notes."""
    yield from _of_sizes(data.size, silos)
    spacings = {name: silo.spacings for name, silo in silos.items()}
    if data.sequence is not None:
        yield from _of_steps(spacings)
        return
    yield from _of_spacings(spacings, data.kind == "volumes")
    if not data.pixel_range:
        yield from _of_pixels(silos)


def _of_steps(steps: Mapping[str, tuple[tuple[float, ...], ...]]) -> Iterator[str]:
    """Yield a line where the steps of some series are longer than those of others."""
    every = [one for own in steps.values() for (one,) in own]
    if every and max(every) > UNEVEN * min(every):
        listed = by_silo({name: [f"{one:g}" for (one,) in own] for name, own in steps.items()}, quoted=False)
        yield (
            f"series have steps of several lengths ({listed}, of dates in seconds), and times are not read but for the order of steps; where "
            "they matter, resample all series to one length"
        )


def _of_spacings(spacings: Mapping[str, tuple[tuple[float, ...], ...]], volumes: bool) -> Iterator[str]:
    """Yield a line where the pixels of some files are larger than those of others, and one where they are not square."""
    every = {one for own in spacings.values() for one in own}
    texts = {
        name: [" x ".join(f"{side:g}" for side in one) + " mm" for one in own]
        for name, own in spacings.items()
    }
    if any(max(sides) > CHANGED * min(sides) for sides in zip(*every, strict=False)):
        listed = by_silo(texts, quoted=False)
        yield f"pixels have several sizes ({listed}), and images are read by pixels; where sizes matter, resample the files to one spacing"
    oblong = {
        name: [text for text, one in zip(texts[name], own, strict=True) if max(one) > CHANGED * min(one)]
        for name, own in spacings.items()
    }
    if not volumes and (listed := by_silo(oblong, quoted=False)):
        yield f"pixels are not square ({listed}), and images are read as if they were; where shapes matter, resample the files"


def _of_sizes(size: int | str, silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    sizes = {name: silo.sizes for name, silo in silos.items() if silo.sizes}
    changed = {
        name: [f"{own.changed:.0%} of the images, such as {' x '.join(map(str, own.worst))} px"]
        for name, own in sizes.items()
        if own.changed > MIN_SHARE
    }
    if listed := by_silo(changed, quoted=False):
        yield (
            f"data.size = {size} changes the shape of images by more than a tenth ({listed}); where shapes matter, "
            "crop or pad the files to equal sides"
        )


def _of_pixels(silos: Mapping[str, SiloSchema]) -> Iterator[str]:
    if not any(len(silo.shape) > 2 for silo in silos.values()):
        return
    facts = {name: silo.facts for name, silo in silos.items()}
    dark = {
        name: [f"{own.brightest} of 0..{own.white}"]
        for name, own in facts.items()
        if own.brightest is not None and own.white is not None and own.brightest < (own.white + 1) // DARK
    }
    if listed := by_silo(dark, quoted=False):
        proposed = max((facts[name].brightest or 0).bit_length() for name in dark)
        yield (
            f"the brightest pixel is low ({listed}), so a model sees nearly black images; if all silos have this range, set "
            f"data.pixel_range = [0, {(1 << max(proposed, 1)) - 1}]; otherwise multiply the pixels, or store them as floats, which are scaled"
        )
    numbers = [name for name, own in facts.items() if own.brightest is None]
    if numbers and len(numbers) < len(facts):
        pixels = next(name for name, own in facts.items() if own.brightest is not None)
        yield (
            f"{pixels} has pixels of 0..{facts[pixels].white}, {numbers[0]} other numbers, which are scaled by channel; store all in one way"
        )
