"""The body of a model that ``fedtl export`` wrote, and of a silo of a run: what ``fedtl embed`` reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedtl.data.preprocess import Inputs
from fedtl.errors import ConfigError
from fedtl.experiment.backbone import of_export, read_description
from fedtl.experiment.embed import Body, body_of
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run_folder import RunFolder
from fedtl.methods.sets import model_part
from fedtl.models.exported import exported_weights


def named_body(path: Path, silo: str) -> Body:
    """
    Return the body of a silo's model, or that of an export, which is one model. ``path``: the folder; ``silo`` "": not named. Raises
    ConfigError or ModelError.
    """
    exported = exported_body(path)
    if exported is not None:
        if silo:
            raise ConfigError(
                f"--silo: {path} was written by fedtl export and is the model of one silo; remove --silo"
            )
        return exported
    folder = RunFolder.open(path)
    if not silo:
        names = ", ".join(sorted(one.name for one in (folder.path / "silos").glob("*")))
        raise ConfigError(
            f"--silo: name the silo whose model is used; the run has {names or 'no finished silo'}"
        )
    return body_of(SiloModel(folder, silo))


def exported_body(path: Path) -> Body | None:
    """
    Return the body of a model that ``fedtl export`` wrote to a folder, of a mix that of its main model; None for any other folder.
    Raises ConfigError or ModelError.
    """
    if not (path / "model.json").is_file():
        return None
    about, file = read_description(path / "model.json"), Path(exported_weights(str(path)))
    inputs = _inputs(about, path)
    backbone = of_export(file, path)
    width = max(len(backbone.classes), 1)
    state = model_part(backbone.trainer.initial(width)) | backbone.shared
    table = about.get("table", {})
    changed = {key: table[key] for key in ("delimiter", "decimal", "encoding") if key in table}
    mix = tuple(Path(name).stem for name in about.get("mix", {}))
    settings = backbone.experiment.data.model_copy(update=changed)
    return Body(backbone.trainer, state, width, inputs, backbone.shape, settings, "", file.stem, mix)


def _inputs(about: Mapping[str, Any], path: Path) -> Inputs:
    """Return how the inputs of an exported model are prepared. Raises ConfigError where only its run can read them."""
    kinds = {each["kind"] for each in about.get("table", {}).get("columns", {}).values()} - {"number"}
    if kinds or about["inputs"].get("sequence"):
        what = f"columns of the kind {sorted(kinds)[0]!r}" if kinds else "series of measurements"
        raise ConfigError(f"{path}: its inputs are made of {what}; give the folder of the run, with --silo")
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in about["inputs"].items()
    }
    try:
        return Inputs(**fields)
    except TypeError as error:
        raise ConfigError(f"{path / 'model.json'} is damaged ({error}); export the model again") from error
