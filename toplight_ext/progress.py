"""Progress on standard error: drawn on a terminal, silent everywhere else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from .extras import require


@contextlib.contextmanager
def progress_bar(label: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Yield `advance(count=1, note="")`; the bar shows the count, the rate, the time left and the note.

    Args:
        label: what is being worked through.
        total: number of steps (an epoch's batches, images to read, ...).
        done: steps that were finished before, after a resume.
    """
    if not sys.stderr.isatty():
        yield lambda count=1, note="": None
        return
    rich_console = require("rich.console", extra="train")
    bars = require("rich.progress", extra="train")
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=24),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[note]}"),
    )
    with bars.Progress(*columns, console=rich_console.Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, completed=done, note="", rate="")

        def advance(count: int = 1, note: str = "") -> None:
            speed = progress.tasks[task].speed
            progress.update(task, advance=count, note=note, rate=f"{speed:.1f}/s" if speed else "")

        yield advance
