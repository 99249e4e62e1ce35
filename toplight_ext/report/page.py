"""The page of a report, put together from its parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

from ..evaluation import MAIN_SCORES
from .drawing import legend
from .features import features_section, slices_section
from .figures import bin_size, cmc_figure, training_figure
from .ranked import ranked_lists
from .run import METRICS, Run, Stage
from .tables import (
    protocol_sentence,
    run_table,
    seeds_table,
    settings_table,
    stage_table,
    stage_titles,
    stages_of_runs_table,
    time_table,
)
from .text import count, difference, duration, escape, escape_lines, label, percent, plain

# Whatever a report is made to hold, a browser that shows it loads and runs nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MOST_LINES = 6  # of one figure: as many as style.css has colours for


def page(runs: Sequence[Run]) -> str:
    """The report on one run, or on several side by side, as one HTML document."""
    title = plain(runs[0].name)
    if len(runs) > 1:
        others = plain(runs[1].name) if len(runs) == 2 else f"{len(runs) - 1} other runs"
        title = f"{title} and {others}"
        runs = [replace(run, name=f"{i}: {run.name}") for i, run in enumerate(runs, start=1)]  # names may repeat
    sections = {
        "results": ("Results", _results(runs)),
        "cmc": ("Cumulative matching", _cmc(runs)),
        "training": ("Training", _training(runs)),
        "ranked": ("Ranked lists", ranked_lists(runs)),
        "features": ("Features", features_section([(run.name, run.analysis) for run in runs])),
        "slices": ("Slices", slices_section([(run.name, run.analysis) for run in runs])),
        "time": ("Time", _time(runs)),
        "recipe": ("Recipe", _recipe(runs)),
        "environment": ("Environment", _environment(runs)),
    }
    links = "".join(f'<a href="#{key}">{heading}</a>' for key, (heading, _) in sections.items())
    body = "".join(
        f'<section id="{key}"><h2>{heading}</h2>\n{text}\n</section>\n' for key, (heading, text) in sections.items()
    )
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    kind = "run report" if len(runs) == 1 else f"comparison of {count(len(runs), 'run')}"
    tiles = _tiles(runs[0]) if len(runs) == 1 else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)} · toplight_ext</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header><p class="kind">toplight_ext · {kind}</p><h1>{label(title, 170)}</h1>{tiles}{_notes(runs)}</header>\n'
        f'<nav aria-label="Sections">{links}</nav>\n<main>\n{body}</main>\n</body>\n</html>\n'
    )


def _tiles(run: Run) -> str:
    """The figures that are looked for first."""
    tiles = []
    last = run.result
    first = run.rows[0] if len(run.rows) > 1 and run.rows[0].test == last.test else None
    for metric in MAIN_SCORES:
        if last is not None and metric in last.figures:
            below = ""
            if first is not None and metric in first.figures:
                gain = difference(last.figures[metric], first.figures[metric])
                below = f"{gain} since {label(first.label, 30)}"
            tiles.append((METRICS[metric], f"{percent(last.figures[metric])}<small> %</small>", below))
    seconds = [stage.seconds for stage in run.stages if stage.seconds is not None]
    if seconds:
        of_all = "" if len(seconds) == len(run.stages) else f"{len(seconds)} of "
        tiles.append(("Training", duration(sum(seconds)), of_all + count(len(run.stages), "stage")))
    items = (f"<div><dt>{name}</dt><dd>{value}<span>{below}</span></dd></div>" for name, value, below in tiles)
    return f'<dl class="tiles">{"".join(items)}</dl>' if tiles else ""


def _notes(runs: Sequence[Run]) -> str:
    """What is missing or broken, so that nobody takes a part for the whole."""
    items = "".join(
        f"<li>{label(run.name, 40) + ': ' if len(runs) > 1 else ''}{escape(note, 200)}</li>"
        for run in runs
        for note in run.notes
    )
    return f'<div class="notes" role="note"><p>Not all is here</p><ul>{items}</ul></div>' if items else ""


def _absent(what: str) -> str:
    return f'<p class="missing-part">{what}</p>'


def _results(runs: Sequence[Run]) -> str:
    rows = [(run, row) for run in runs for row in run.rows]
    if not rows:
        return _absent("No evaluation yet.")
    protocol = protocol_sentence(rows[-1][1])
    if len({row.test for _, row in rows}) > 1:
        tests = {(run.name, row.test): row for run, row in reversed(rows)}
        items = "".join(
            f"<li>{label(name, 40) + ', ' if len(runs) > 1 else ''}{label(row.label)}: {protocol_sentence(row)}</li>"
            for (name, _), row in reversed(tests.items())
        )
        protocol = f"These figures come from different tests; across tests no difference is taken.<ul>{items}</ul>"
    text = f'<div class="protocol">{protocol}</div>'
    if len(runs) == 1:
        return text + stage_table(runs[0].rows)
    by_stage = [
        stages_of_runs_table(runs, metric) for metric in ("r1", "mAP") if any(metric in row.figures for _, row in rows)
    ]
    return text + seeds_table(runs) + run_table(runs) + "".join(by_stage)


def _cmc(runs: Sequence[Run]) -> str:
    rows = list(reversed(runs[0].rows))  # the result first, which gets the solid line
    if len(runs) > 1:
        rows = [replace(run.result, label=run.name) for run in runs if run.result is not None]
    rows = [row for row in rows if row.cmc]
    if not rows:
        return _absent("No CMC curve.")
    left_out, rows = _left_out(len(rows)), rows[:_MOST_LINES]
    each = "each stage" if len(runs) == 1 else "the last evaluation of each run"
    return (
        f"<p>Share of the queries that meet a right gallery image within the first ranks, for {each}.{left_out}</p>"
        f'<figure class="wide">{cmc_figure(rows)}{legend([row.label for row in rows])}</figure>'
    )


def _training(runs: Sequence[Run]) -> str:
    """One figure per stage: with one run the loss and its terms, with several the loss of each."""
    by_stage: dict[str, list[tuple[str, Stage]]] = {}
    for run in runs:
        for stage in run.stages:
            if stage.losses:
                by_stage.setdefault(stage.name, []).append((run.name, stage))
    if not by_stage:
        return _absent("No step of training on record.")
    titles = stage_titles(runs)
    figures = "".join(_stage_figure(titles.get(name, name), found, len(runs) == 1) for name, found in by_stage.items())
    return f'<div class="figures">{figures}</div>'


def _stage_figure(title: str, found: Sequence[tuple[str, Stage]], single: bool) -> str:
    stages = [stage for _, stage in found[:_MOST_LINES]]
    series = list(stages[0].losses) if single else [run for run, _ in found[:_MOST_LINES]]
    size = bin_size(max(len(stage.steps) for stage in stages))
    how = f" Each point is the mean of {size} steps, the band their range." if size > 1 else ""
    steps = f"{count(len(stages[0].steps), 'step')} in {count(stages[0].epochs, 'epoch')}." if single else ""
    return (
        f"<figure><h3>{label(title)}</h3>{training_figure(stages, terms=single)}{legend(series)}"
        f"<figcaption>{steps}{how}{_left_out(len(found))}</figcaption></figure>"
    )


def _left_out(lines: int) -> str:
    return f" The first {_MOST_LINES} of {lines:,} are drawn." if lines > _MOST_LINES else ""


def _time(runs: Sequence[Run]) -> str:
    return time_table(runs) if any(run.stages for run in runs) else _absent("No stage on record.")


def _recipe(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return _absent("No recipe.") if runs[0].recipe is None else _toml(runs[0].recipe)
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    differing = [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]
    settings = [{key: run.settings[key] for key in differing if key in run.settings} for run in runs]
    text = (
        settings_table("Settings that differ", "Setting", runs, settings) if differing else "<p>No setting differs.</p>"
    )
    return text + "".join(
        f"<details><summary>Recipe of {label(run.name)}</summary>{_toml(run.recipe)}</details>"
        for run in runs
        if run.recipe is not None
    )


def _toml(recipe: str) -> str:
    """The text with its headings and keys set off, nothing else touched."""
    text = escape_lines(recipe)
    text = re.sub(r"^\[.*\]$", r"<b>\g<0></b>", text, flags=re.MULTILINE)
    text = re.sub(r"^([\w.-]+)(?= = )", r"<i>\1</i>", text, flags=re.MULTILINE)
    return f"<pre>{text}</pre>"


def _environment(runs: Sequence[Run]) -> str:
    if not any(run.environment for run in runs):
        return _absent("No environment on record.")
    return settings_table("Where it ran", "Property", runs, [run.environment for run in runs])
