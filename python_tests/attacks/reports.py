"""Attacks by what a report, a model card or a terminal shows: run folders too large to be drawn, links, names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from report_cases import HOSTILE, ranked_of, write_run

from toplight_ext.deploy import write_index
from toplight_ext.evaluation import Features, save_features

from .confined import Attacks, Read, command

ATTACKS = Attacks()  # that a report is to survive
NAMES = (
    *HOSTILE,
    "<img src=http://127.0.0.1:{port}/x.png>",
    "'\"><link rel=stylesheet href=//127.0.0.1:{port}/x.css><svg onload=\"fetch('http://127.0.0.1:{port}/')\">",
    "]]></style></title><style>@import 'http://127.0.0.1:{port}/';</style>",
    "\u2066\u2067\u202d\u061c\u200d\u2062\ufff9\U000e0041\u0085\u2028",
    "&lt;script&gt;&#x202e;&#0;",
    "`[a](http://127.0.0.1:{port}/)` ![b](http://127.0.0.1:{port}/b.png) | c |\n# d\n\n<script>",
    "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\x7f",
)


def _report(folder: Path, **files: Any) -> Read:
    """A run that is whole but for these files."""
    run = write_run(folder / "run")
    for name, content in files.items():
        path = run / name.replace("_", ".")
        path.unlink()
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return command("report", run)


_MANY = {
    "three million queries": {"ranked_json": '{"queries":[' + "{}," * 3_000_000 + "{}]}"},
    "three million results": {"evaluation_json": '{"results":[' + "{}," * 3_000_000 + "{}]}"},
    "five million lists": {"analysis_json": '{"slices":[' + "[]," * 5_000_000 + "[]]}"},
    "a hundred megabytes of nothing": {"environment_json": " " * (100 << 20)},
    "a recipe of a million parts": {"recipe_toml": ".".join("a" * 1_000_000) + " = 1"},
    "a recipe of eight thousand parts": {"recipe_toml": ".".join("a" * 8_000) + " = 1"},
    "a gallery of a million images": {
        "ranked_json": '{"queries":[{"gallery":[' + '{"path":"x"},' * 1_000_000 + '{"path":"x"}]}]}'
    },
    "an identity of ten megabytes": {"ranked_json": {"queries": [{"identity": "\u202e" * 1_500_000, "gallery": []}]}},
    "lists nested without end": {"stages_json": "[" * 1_000_000, "analysis_json": '{"slices":' * 100_000},
    "numbers of four thousand digits": {"evaluation_json": '{"results":[{"mAP":' + "9" * 4000 + "}]}"},
}


@ATTACKS.each({name: (files,) for name, files in _MANY.items()})
def too_much(folder: Path, files: dict[str, Any]) -> Read:
    """A run folder with {}."""
    return _report(folder, **files)


@ATTACKS
def many_lines(folder: Path) -> Read:
    """A run of a million logged steps, each of another stage."""
    lines = "".join(f'{{"step":{i},"stage":{i},"a":1,"b":2}}\n' for i in range(1_000_000))
    return _report(folder, metrics_jsonl=lines)


@ATTACKS
def links_and_pipes(folder: Path) -> Read:
    """A run folder whose files are pipes, folders, endless devices and links to the passwords."""
    run = write_run(folder / "run")
    for name in ("metrics.jsonl", "stages.json", "ranked.json", "analysis.json"):
        (run / name).unlink()
    os.mkfifo(run / "metrics.jsonl")
    (run / "stages.json").mkdir()
    (run / "ranked.json").symlink_to("/dev/zero")
    return command("report", run)


@ATTACKS
def images_that_are_none(folder: Path) -> Read:
    """Ranked lists whose images are pipes, devices, folders, and paths with a NUL or of ten thousand letters."""
    run = write_run(folder / "run")
    os.mkfifo(folder / "pipe.png")
    paths = ["/dev/zero", str(folder / "pipe.png"), str(folder), "a\0b.png", "x" * 10_000, "http://127.0.0.1/x.png", ""]
    queries = ranked_of(folder)["queries"]
    for query, path in zip(queries, paths, strict=False):
        query["path"] = query["gallery"][0]["path"] = path
    (run / "ranked.json").write_text(json.dumps({"queries": queries}))
    return command("report", run)


@ATTACKS
def report_through_a_link(folder: Path) -> Read:
    """A run folder whose report.html, and whatever may be written before it is in place, are links outside."""
    run, outside = write_run(folder / "run"), folder.parent / "outside" / "mine.txt"
    outside.write_text("mine")
    (run / "report.html").symlink_to(outside)

    def read() -> Any:
        (run / f".report.html.{os.getpid()}.tmp").symlink_to(outside)  # a stranger would lay one for every process
        return command("report", run)()

    return read


@ATTACKS
def lists_in_a_terminal(folder: Path) -> Read:
    """Feature files and a gallery index whose names would command the terminal that ranked lists are printed on."""
    names = np.array([name.replace("\0", "").replace("\ud800", "") for name in NAMES])
    values = np.random.default_rng(0).normal(size=(len(names), 4)).astype(np.float32)
    features = Features(values, names, np.zeros(len(names), int), paths=names)
    save_features(folder / "q.npz", features)
    write_index(folder / "g.index", features)
    return command("match", "q.npz", "g.index", "--top", "2")


def warm(folder: Path) -> None:
    """A run as it should be."""
    assert command("report", write_run(folder / "run"))().code == 0
    lists_in_a_terminal(folder)
