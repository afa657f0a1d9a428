"""``fedtl new``: an experiment that is proposed for a folder of data."""

from pathlib import Path
from typing import Annotated

import typer

from fedtl.cli.options import Dir, Set
from fedtl.cli.screen import print_line


def new(
    folder: Dir,
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="the folder or file with the rows")],
    set_: Set = None,
    run: Annotated[bool, typer.Option("--run", help="then run the comparison, into DIR/comparison")] = False,
) -> None:
    """
    Look at a folder of data, and write an experiment for it with the reason for each setting.

    DIR is where experiment.toml is written; a file that is there is never replaced.
    FOLDER: one CSV, Parquet, Excel or .npz file for each silo; one such file whose rows have a column that names the silo, or are dealt to silos; folders of images; sets of Hugging Face.
    What is doubtful is printed; change it in the file, or set it: --set data.label=NAME.
    All rows are read and nothing is trained. The output tells what the rows hold: it is for those who may see them.

    Example: fedtl new study --data hospitals
    """
    from fedtl.experiment.propose.propose import free_path, propose, write_proposal

    free_path(folder)
    proposal = propose(data, set_ or [])
    path = write_proposal(proposal, data, folder)
    for guess in proposal.guesses:
        print_line(f"{guess.topic}: {guess.choice} ({guess.why})")
        if guess.doubt:
            print_line(f"    check: {guess.doubt}", "yellow")
    for note in proposal.notes:
        print_line(f"Note: {note}", "yellow")
    print_line(f"written: {path}")
    if not run:
        print_line(f"next: fedtl data {path}; fedtl show {path}; fedtl compare {path}")
        return
    from fedtl.cli.train import compare

    compare(str(path), out=folder / "comparison")
