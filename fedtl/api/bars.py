"""Progress bars, shown only where a caller asks for one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress


@contextmanager
def progress_bar(show: bool, title: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the number of steps that are done and the number of all steps."""
    with Progress(disable=not show) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update
