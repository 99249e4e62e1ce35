"""`toplight demo`: the whole path on drawn images, without a network, in a few minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import data, report, training
from .errors import InputError

RECIPE = "demo"


def run_demo(out: Path, seed: int = 0) -> dict[str, Any]:
    """Draw a visible-infrared set, run the recipe `demo` on it, print what each stage brought, write a report.

    Args:
        out: folder of the run, new or empty; the drawn images go to its subfolder `data`.

    Returns:
        r1, mAP and mINP of the last stage, seconds, and the path of the report.
    """
    began = time.monotonic()
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: give the demo a new folder with --out")
    drawn = out.with_name(out.name + "-data")
    data.draw_synthetic(drawn / "visible-infrared", identities=120, dev_identities=60, seed=seed)
    data.draw_synthetic(drawn / "pretraining", identities=150, dev_identities=1, views=8, seed=seed + 1)
    recipe = training.load_recipe(
        RECIPE,
        [
            f"data.root='{drawn / 'visible-infrared'}'",
            f"test.root='{drawn / 'visible-infrared'}'",
            f"pretraining_data.root='{drawn / 'pretraining' / 'train'}'",
            f"seed={seed}",
        ],
    )
    run = training.start(recipe, out)
    page = report.write_report([run.folder])
    print(report.text_table(run.results))
    seconds = time.monotonic() - began
    print(f"{seconds:.0f} s; report: {page}")
    last = run.results[-1]
    return {
        "r1": last["r1"],
        "mAP": last["mAP"],
        "mINP": last["mINP"],
        "seconds": round(seconds, 1),
        "report": str(page),
    }
