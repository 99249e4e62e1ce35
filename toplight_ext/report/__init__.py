"""Reports on runs: one self-contained HTML page, a picture of ranked lists, a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..files import write_text
from .pictures import ranked_picture
from .tables import text_table

__all__ = ["ranked_picture", "text_table", "write_report"]


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write an HTML report on one run folder, or on several side by side, the first being what others are held to.

    The page needs nothing beside itself: images, curves and styles are in it, and it runs no script. What a run
    folder lacks is said on the page.

    Args:
        runs: folders written by `toplight train`.
        out: file to write; default report.html in the run's folder, with several runs comparison.html in the
            folder of the first.

    Returns:
        The file written.

    Raises:
        InputError: no folder given, or one is not a run folder.
        MissingExtra: matplotlib or Pillow is not installed.
        OSError: the file cannot be written; an older one stays as it was.
    """
    from .page import page
    from .run import read_run

    folders = [Path(run) for run in runs]
    if not folders:
        raise InputError("no run to report on; name at least one run folder")
    text = page([read_run(folder) for folder in folders])
    default = folders[0] / ("report.html" if len(folders) == 1 else "comparison.html")
    target = default if out is None else Path(out)
    write_text(target, text)
    return target
