"""
The files of a folder of Hugging Face's form, "hf-folder:PATH": ``config.json`` (the layers), ``model.safetensors`` (the weights) and
``tokenizer.json`` (how text becomes tokens). Imports no torch, because the idle processes of a site read settings and stay small.
"""

from pathlib import Path

from fedtl.errors import ModelError

FOLDER = "hf-folder:"
HERE = f"{FOLDER}."  # what model.json of an export calls the folder that it is in
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"


def at_name(name: str) -> str:
    """Return how a message on the model of this name begins."""
    return f"model.name = {name!r}"


def is_folder_name(name: str) -> bool:
    """Whether a name is that of a folder: "hf-folder:PATH"."""
    return name.startswith(FOLDER)


def shown_name(name: str) -> str:
    """Return the name of a model without the folders of this machine: of a folder its last part, and any other name as it is."""
    return FOLDER + Path(name.removeprefix(FOLDER)).name if is_folder_name(name) else name


def folder_file(name: str, file: str) -> Path:
    """Return the path of a file in the folder of a model's name. Raises ModelError where it is not there."""
    folder = Path(name.removeprefix(FOLDER))
    if not folder.is_dir():
        raise ModelError(
            f"{at_name(name)}: there is no such folder; put {CONFIG}, {TOKENIZER} and {WEIGHTS} of a model into it"
        )
    if not (path := folder / file).is_file():
        raise ModelError(f"{at_name(name)}: there is no {file} in it; {_advice(folder, file)}")
    return path


def _advice(folder: Path, file: str) -> str:
    """Return what to do where a file of the folder is missing."""
    if file == WEIGHTS and any(folder.glob("*.bin")):
        return "its weights are pickled, and fedtl loads none: save the model as safetensors in one file"
    if file == WEIGHTS and any(folder.glob("model-*.safetensors")):
        return "its weights are in several files: save the model in one (max_shard_size)"
    if file == TOKENIZER and any(folder.glob("vocab*")):
        return "save its fast tokenizer there (AutoTokenizer.from_pretrained(...).save_pretrained(...))"
    return f"put the {file} of the model there"
