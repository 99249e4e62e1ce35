"""`toplight data`."""

from __future__ import annotations

from pathlib import Path

from ..text import seen
from .options import AddCommand, add_json, add_recipe, print_json


def add_commands(command: AddCommand) -> None:
    data = command("data", _check, "Look after data sets.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = actions.add_parser("check", help="count and cross-check the images of a data set; modifies nothing")
    check.add_argument(
        "name", metavar="NAME", help="sysu, regdb, llcm, oulu, buaa, imagenet, imagenet-mini, folder, csv or synthetic"
    )
    check.add_argument("root", metavar="ROOT", type=Path, help="the data set's folder or list")
    check.add_argument("--split", help="default: all splits that are there")
    check.add_argument("--decode", action="store_true", help="decode every image fully, not its header alone")
    check.set_defaults(run=_check)
    add_json(check)

    preview = actions.add_parser("preview", help="draw what the networks of a recipe see, raw and augmented")
    add_recipe(preview)
    preview.add_argument("--out", metavar="PNG", type=Path, required=True)
    preview.add_argument("--rows", type=int, default=6, help="images of each stage's first batch (default: 6)")
    preview.set_defaults(run=_preview)


def _check(options) -> int:
    from .. import data

    report = data.check_dataset(options.name, options.root, split=options.split, decode=options.decode)
    print_json(report.to_json()) if options.json else print(seen(report.table(), kept="\n"))
    return 0 if report.ok else 1


# By stage: its title, and names of every view of every stream.
_PANELS = {
    "pretrain": ("Pretraining", (("image",),)),
    "top": ("TOP: every image on both paths", (("path 1", "path 2"),)),
    "vi": ("Visible-infrared training", (("visible",), ("infrared",))),
}


def _preview(options) -> int:
    from .. import training
    from ..report.preview import Panel, preview_picture

    recipe = training.load_recipe(options.recipe, options.overrides, options.base)
    panels = [
        Panel(*_PANELS[stage], training.stage_streams(recipe, stage), recipe.preprocessing(stage))
        for stage in recipe.stages
        if stage in _PANELS  # the soup trains nothing
    ]
    print(preview_picture(panels, options.out, recipe.seed, options.rows, recipe.threads))
    return 0
