"""Runs TOP, soup and VI training with every backbone of the paper on drawn images, and prints a table.

The recipes differ in the name of the backbone only (recipes/backbones.toml). The runs are short: they show that every
network trains through all stages, and what it costs; their ranks say little about a network.

    python benchmarks/backbones.py OUT [--backbone NAME ...]
"""

import argparse
import json
import sys
from pathlib import Path

from toplight_ext import data, training
from toplight_ext.models.table import model_rows

PAPER = (
    "resnet50",
    "convnext_tiny",
    "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "ghostnet_100",
    "ghostnet_130",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
)


def draw(folder: Path) -> list[str]:
    """The drawn sets, and the overrides of the recipe that name them."""
    walkers, pretraining = folder / "visible-infrared", folder / "pretraining"
    if not folder.exists():
        data.draw_synthetic(walkers, identities=40, dev_identities=30, seed=0)
        data.draw_synthetic(pretraining, identities=50, dev_identities=1, views=4, seed=1)
    roots = {"data.root": walkers, "test.root": walkers, "pretraining_data.root": pretraining / "train"}
    return [f"{key}={json.dumps(str(root))}" for key, root in roots.items()]


def run(name: str, overrides: list[str], out: Path) -> dict:
    """Rank-1 and mAP of the last stage, and the rate of the VI stage."""
    recipe = training.load_recipe("backbones", [*overrides, f"model.backbone={name}"])
    done = training.start(recipe, out / name)
    stage = next(entry for entry in done.finished if entry["stage"] == "vi")
    scores = {key: done.results[-1][key] for key in ("r1", "mAP")}
    seconds = sum(entry["seconds"] for entry in done.finished)
    return scores | {"images_per_s": stage["images_per_second"], "seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="folder for images and runs")
    parser.add_argument("--backbone", nargs="+", choices=PAPER, default=PAPER)
    given = parser.parse_args()
    overrides = draw(given.out / "data")
    rows = {row.name: row for row in model_rows()}
    print(f"{'backbone':30}{'rank-1':>8}{'mAP':>8}{'parameters':>12}{'multiply-adds':>15}{'images/s':>10}{'seconds':>9}")
    for name in given.backbone:
        found, row = run(name, overrides, given.out / "runs"), rows[name]
        print(
            f"{name:30}{found['r1']:8.1%}{found['mAP']:8.1%}{row.parameters / 1e6:11.1f}M"
            f"{row.multiply_adds / 1e6:14.0f}M{found['images_per_s']:10.1f}{found['seconds']:9.0f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
