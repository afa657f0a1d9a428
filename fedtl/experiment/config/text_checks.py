"""A model of text in a local folder (``models.text_folder``): what its name says of ``[data]``, and what does not go with it."""

from collections.abc import Iterator

from fedtl.data.settings import KINDS
from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.schema import Experiment
from fedtl.models.folder_files import CONFIG, TOKENIZER, WEIGHTS, folder_file, is_folder_name

OF_COLUMNS = ("mlp", "linear")  # models to which the number of a token would be a quantity


def with_text_folder(experiment: Experiment) -> Experiment:
    """
    Return the experiment with what a model "hf-folder:PATH" says of the rest: the column of text is its only input, read by the folder's
    tokenizer, and "pretrained" weights are the folder's. Raises ConfigError for a file that is not in the folder.
    """
    model, data = experiment.model, experiment.data
    if not is_folder_name(model.name):
        return experiment
    if len(data.text) != 1:
        raise ConfigError(f'model.name = {model.name!r} reads one column of text; set data.text = ["COLUMN"]')
    others = [name for key in KINDS if key != "text" for name in getattr(data, key)]
    if other := [name for name in (*others, *data.columns) if name not in data.text]:
        raise ConfigError(
            f"model.name = {model.name!r} reads the column of data.text alone, and {other[0]!r} is another input; remove it from [data]"
        )
    try:
        folder_file(model.name, CONFIG)
        tokenizer = data.tokenizer or str(folder_file(model.name, TOKENIZER))
        weights = str(folder_file(model.name, WEIGHTS)) if model.weights == "pretrained" else model.weights
    except ModelError as error:
        raise ConfigError(str(error)) from error
    read = {"tokenizer": tokenizer, "columns": list(data.text), "drop": []}
    return experiment.model_copy(
        update={"data": data.model_copy(update=read), "model": model.model_copy(update={"weights": weights})}
    )


def text_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting that tokens contradict, or that needs them."""
    data, model = experiment.data, experiment.model
    for name, silo in experiment.silo.items():
        if silo.model is not None and is_folder_name(silo.model.name):
            yield f"silo.{name}.model.name: a model of hf-folder reads inputs of its own; set it in [model]"
    if not data.tokenizer:
        return
    if not data.text:
        yield 'data.tokenizer reads columns of text, and data.text is empty; set data.text = ["COLUMN"]'
    if model.name in OF_COLUMNS:
        yield f"data.tokenizer numbers tokens, and model.name = {model.name!r} would take these numbers for quantities; remove data.tokenizer"
