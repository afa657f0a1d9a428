"""The ``[engine]`` table."""

from typing import Literal

from pydantic import Field

from fedtl._util.settings import Settings


class EngineSettings(Settings):
    """
    ``[engine]``. ``workers`` 0: the machine's cores, or one a GPU; of a cluster, all its cores. ``stack`` 0: several
    silos at once on a GPU where model and method allow it. Results are bit-equal only at equal ``threads``, and
    within rounding where silos are stacked.
    """

    name: Literal["serial", "processes", "ray"] = "processes"
    workers: int = Field(0, ge=0)
    stack: int = Field(0, ge=0, le=1024)
    threads: int = Field(1, ge=1)
    address: str = ""
