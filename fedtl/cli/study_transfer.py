"""``fedtl server transferability``."""

from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.options import Json
from fedtl.cli.screen import out_console, print_json, print_line, say


def study_transfer(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    study: Annotated[str, typer.Argument(metavar="STUDY")],
    as_json: Json = False,
) -> None:
    """
    Print what transfers between the sites of a study that asked for it, and recommend how many stages to share.

    The plan of the study had request.transferability = true, and sites sent their numbers with the last round.
    The folder of the study gets transferability.json, a page, and cut.toml, the settings of the recommended cut.

    Example: fedtl server transferability srv hospitals
    """
    from fedtl.deployment.coordinator.sites import check_name
    from fedtl.deployment.coordinator.study import HostedStudy
    from fedtl.deployment.coordinator.transferability import PAGE, study_transferability
    from fedtl.report.tables import grid_table
    from fedtl.report.transfer_page import answer, points_grid

    hosted = HostedStudy(folder / "studies" / check_name(study))
    found = study_transferability(hosted)
    if as_json:
        print_json(found)
    else:
        out_console.print(grid_table(points_grid("All sites", found, found.points)))
        print_line(answer(found))
        print_line(f"\n{found.cut.fragment}")
    say(f"the page: {hosted.path / PAGE}")
