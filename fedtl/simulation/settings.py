"""The ``[engine]`` table."""

from typing import Literal

from pydantic import Field

from fedtl._util.settings import Settings


class EngineSettings(Settings):
    """
    The ``[engine]`` table of an experiment. ``workers`` 0: one for each core, or for each GPU; on a cluster, for each of
    its cores. ``stack``: how many silos one pass trains at once; 0: several on a GPU where model and method allow it,
    else one. Results have the same bits only for the same ``threads``, and agree within rounding where silos are stacked.
    """

    name: Literal["serial", "processes", "ray"] = "processes"
    workers: int = Field(0, ge=0)
    stack: int = Field(0, ge=0, le=1024)
    threads: int = Field(1, ge=1)
    address: str = ""
