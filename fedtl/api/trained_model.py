"""A silo's own model after a run, for predictions in Python."""

import warnings
from typing import Any

import numpy as np
from torch import Tensor, nn

from fedtl.data import frame
from fedtl.data.input_files import check_reads_tables
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.embed import body_of, embed
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run_folder import RunFolder


class TrainedModel:
    """
    The model that a silo uses after the last round. Inputs are rows as the silo stores them: an array or tensor of images
    [N, H, W] or [N, H, W, C] or of columns [N, columns], or a DataFrame with the columns of training. They are prepared as
    the silo's own rows were.
    """

    def __init__(self, folder: RunFolder, silo: str) -> None:
        """Load the model. Raises ConfigError where the run did not end or has no such silo, or had another model."""
        self.silo, self._model = silo, SiloModel(folder, silo)
        try:
            self._model.net()
        except RuntimeError as error:  # a model passed as a value can be any
            raise ConfigError(
                f"{folder.path}: its tensors do not fit the model; pass the model that was run"
            ) from error

    def __repr__(self) -> str:
        return f"TrainedModel(silo={self.silo!r}, classes={self.classes})"

    @property
    def classes(self) -> tuple[str, ...]:
        """The silo's labels, in the order of the scores; () in regression."""
        return self._model.classes

    def scores(self, x: Any) -> np.ndarray:
        """The model's outputs [N, classes], or [N, 1] in the label's own unit in regression. Raises DataError."""
        return self._model.scores(self._rows(x)).numpy()

    def probabilities(self, x: Any) -> np.ndarray:
        """The softmax of the scores, [N, classes]. Raises DataError, also in regression."""
        if not self.classes:
            raise DataError(f"{self.silo}: a regression model has no probabilities; use predict")
        return self._model.scores(self._rows(x)).softmax(1).numpy()

    def predict(self, x: Any) -> np.ndarray:
        """
        The label of each row [N], as text; in regression the value; in segmentation the mask of class numbers [N, H, W]. Raises
        DataError.
        """
        scores, task = self._model.scores(self._rows(x)), self._model.task
        if task.per_pixel:
            return scores.argmax(1).numpy()
        return np.array([one["prediction"] for one in task.answers(scores, self.classes)])

    def features(self, x: Any) -> np.ndarray:
        """The features of each row [N, D]: what the head sees, by the main model of a mix (``fedtl embed``). Raises DataError."""
        return embed(body_of(self._model), self._rows(x)).vectors

    def module(self) -> nn.Module:
        """
        The PyTorch module, in evaluation mode. It takes prepared inputs: pixels as -1..1 [N, C, H, W], or scaled columns.
        In regression its output is in the silo's own scale.
        """
        return self._model.net()

    def _rows(self, x: Any) -> np.ndarray:
        if not frame.is_frame(x):
            array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
            if array.dtype.kind == "O" or array.ndim == 0:
                raise DataError(
                    f"the input is of type {type(x).__name__} and is not an array of numbers; pass an array, a tensor, or a DataFrame with "
                    "the columns of training"
                )
            return array
        model = self._model
        known, settings = model.inputs.columns, model.experiment.data
        check_reads_tables(model.shape, known, "the DataFrame")
        rows, unread = frame.known_inputs(x, settings, known, "the DataFrame")
        if unread:
            warnings.warn(
                f"columns that the model does not know are not read: {', '.join(unread)}", stacklevel=4
            )
        return rows
