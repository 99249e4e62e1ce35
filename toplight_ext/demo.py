"""`toplight demo`: the whole path on drawn images, without a network, in a few minutes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from . import data, report, training
from .errors import InputError
from .evaluation import MAIN_SCORES

RECIPE = "demo"


def run_demo(out: Path, seed: int = 0) -> dict[str, Any]:
    """Draw a visible-infrared set, run the recipe `demo` on it, print what each stage brought, write a report.

    Args:
        out: new or empty folder; gets `report.html`, the run folder `run`, and the drawn images in `data`.

    Returns:
        r1, mAP and mINP of the last stage, seconds, and the path of the report.
    """
    began = time.monotonic()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty: give the demo a new folder with --out")
    walkers, pretraining = out / "data" / "visible-infrared", out / "data" / "pretraining"
    data.draw_synthetic(walkers, identities=120, dev_identities=60, seed=seed)
    data.draw_synthetic(pretraining, identities=150, dev_identities=1, views=8, seed=seed + 1)
    roots = {"data.root": walkers, "test.root": walkers, "pretraining_data.root": pretraining / "train"}
    overrides = [f"{key}={json.dumps(str(root))}" for key, root in roots.items()]  # a JSON string is a TOML string
    run = training.start(training.load_recipe(RECIPE, [*overrides, f"seed={seed}"]), out / "run")
    page = report.write_report([run.folder], out / "report.html")
    print(report.text_table(run.results))
    seconds = time.monotonic() - began
    print(f"{seconds:.0f} s; report: {page}")
    scores = {name: run.results[-1][name] for name in MAIN_SCORES}
    return {**scores, "seconds": round(seconds, 1), "report": str(page)}
