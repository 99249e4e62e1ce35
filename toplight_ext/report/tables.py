"""The tables of a report: what each stage brought, runs side by side, time, settings; and one for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..evaluation import over_seeds
from .run import METRICS, Row, Run, Stage, read_rows
from .text import MISSING, aligned, count, difference, duration, escape, label, percent, plain, rate


def text_table(results: Iterable[Mapping]) -> str:
    """Evaluations (as in evaluation.json) as a table for the terminal, figures in percent.

    With more than one row the last column says what a stage brought over the row above it, where both are
    measured in the same way.
    """
    rows = read_rows(results)
    if not rows:
        return "no evaluation"
    metrics = _present(rows)
    head = ["", *(METRICS[metric] for metric in metrics)]
    lines = [[plain(row.label, 40), *(_with_spread(row, metric) for metric in metrics)] for row in rows]
    if len(rows) > 1:
        head.append("Brought")
        for line, (row, before) in zip(lines, _with_before(rows), strict=True):
            gains = [(METRICS[metric], _gain(row, before, metric)) for metric in ("r1", "mAP")]
            line.append(", ".join(f"{name} {gain}" for name, gain in gains if gain))
    return aligned(head, lines)


def stage_table(rows: Sequence[Row]) -> str:
    """One row per evaluation, each with its difference from the row above; the best of a column is marked."""
    return _metric_table(
        "Figures in percent; below them the difference from the row above",
        "Stage",
        [(label(row.label), row, before) for row, before in _with_before(rows)],
    )


def run_table(runs: Sequence[Run]) -> str:
    """The last evaluation of each run, with its difference from that of the first run."""
    return _metric_table(
        "Last evaluation in percent; below it the difference from the first run",
        "Run",
        [(label(run.name), run.result, runs[0].result if i else None) for i, run in enumerate(runs)],
    )


def seeds_table(runs: Sequence[Run]) -> str:
    """Mean and sample standard deviation over runs whose recipes differ in the seed alone; '' if there are none."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.result is not None:
            settings = {key: value for key, value in run.settings.items() if key not in ("seed", "name")}
            groups.setdefault((run.result.test, *sorted(settings.items())), []).append(run)
    if all(len(group) == 1 for group in groups.values()):
        return ""
    rows = [_over_seeds(group) for group in groups.values()]
    lines = [(label(row.label), row, rows[0] if i else None) for i, row in enumerate(rows)]
    caption = "Mean and standard deviation over seeds, in percent; below it the difference from the first line"
    return _metric_table(caption, "Recipe", lines)


def stages_of_runs_table(runs: Sequence[Run], metric: str) -> str:
    """One metric: evaluations down, runs across, with differences from the first run."""
    by_run = [{row.name: row for row in run.rows} for run in runs]
    titles = stage_titles(runs)
    body = []
    for name in dict.fromkeys(row.name for run in runs for row in run.rows):
        first = by_run[0].get(name)
        cells = [_metric_cell(of_run.get(name), first if i else None, metric) for i, of_run in enumerate(by_run)]
        body.append((label(titles[name]), *cells))
    return _table(f"{METRICS[metric]} by stage, in percent", ["Stage", *(label(run.name) for run in runs)], body)


def time_table(runs: Sequence[Run]) -> str:
    """Seconds and images/s of every stage; with one run the share of a stage is drawn as a bar."""
    units = ["Time", "Images/s", *(["Share of time"] if len(runs) == 1 else [])]
    total = [sum(stage.seconds or 0.0 for stage in run.stages) for run in runs]
    by_run = [{stage.name: stage for stage in run.stages} for run in runs]
    titles = stage_titles(runs)
    body = []
    for name in dict.fromkeys(stage.name for run in runs for stage in run.stages):
        found = [of_run.get(name) for of_run in by_run]
        cells = [_time_cells(stage, whole)[: len(units)] for stage, whole in zip(found, total, strict=True)]
        body.append((label(titles.get(name, name)), *(cell for of_run in cells for cell in of_run)))
    over = "" if len(runs) == 1 else "<br>"
    head = [(label(run.name) + over if over else "") + unit for run in runs for unit in units]
    foot = [cell for whole in total for cell in (duration(whole or None), *[""] * (len(units) - 1))]
    return _table("Time per stage", ["Stage", *head], body, ["All stages", *foot])


def settings_table(caption: str, what: str, runs: Sequence[Run], settings: Sequence[Mapping[str, str]]) -> str:
    """Keys down, runs across; with several runs the rows that differ are marked."""
    body = []
    for key in dict.fromkeys(key for of_run in settings for key in of_run):
        values = [of_run.get(key) for of_run in settings]
        cells = [MISSING if value is None else label(value, 300) for value in values]
        if len(set(values)) > 1:
            cells = [f"<mark>{cell}</mark>" for cell in cells]
        body.append((label(key, 120), *cells))
    head = [label(run.name) for run in runs] if len(runs) > 1 else ["Value"]
    return _table(caption, [what, *head], body, kind="settings")


def stage_titles(runs: Sequence[Run]) -> dict[str, str]:
    """What the evaluations call the stages, by the stages' names; the name where the runs differ in it."""
    labels: dict[str, set[str]] = {}
    for row in (row for run in runs for row in run.rows):
        labels.setdefault(row.name, set()).add(row.label)
    return {name: found.pop() if len(found) == 1 else name for name, found in labels.items()}


def protocol_sentence(row: Row) -> str:
    """How an evaluation was made, as HTML: 'Protocol infrared → visible, cosine distance, 1 trial.'"""
    protocol = row.protocol.replace("->", " → ")
    parts = [f"Protocol {label(protocol)}" if protocol else "Protocol not recorded"]
    if row.metric:
        parts.append(f"{label(row.metric)} distance")
    if row.queries is not None:
        parts.append(f"{count(row.queries, 'query')} with a match")
    if row.trials is not None:
        parts.append(count(row.trials, "trial"))
    return ", ".join(parts) + "."


def _over_seeds(group: Sequence[Run]) -> Row:
    """One row for several runs."""
    rows = [run.result for run in group]
    shared = [metric for metric in METRICS if all(metric in row.figures for row in rows)]
    of_metric = {metric: over_seeds([row.figures[metric] for row in rows]) for metric in shared}
    seeds = f"{plain(group[0].settings.get('name', group[0].name), 60)} ({count(len(group), 'seed')})"
    return replace(
        rows[0],
        label=seeds,
        figures={metric: mean for metric, (mean, *_) in of_metric.items()},
        std={metric: deviation for metric, (_, *deviations) in of_metric.items() for deviation in deviations},
    )


def _with_before(rows: Sequence[Row]) -> list[tuple[Row, Row | None]]:
    return [(row, rows[i - 1] if i else None) for i, row in enumerate(rows)]


def _present(rows: Iterable[Row]) -> list[str]:
    found = {metric for row in rows for metric in row.figures}
    return [metric for metric in METRICS if metric in found]


def _gain(row: Row, before: Row | None, metric: str) -> str:
    """Signed difference in points, '' where the two cannot be compared."""
    if before is None or row.test != before.test:
        return ""
    now, then = row.figures.get(metric), before.figures.get(metric)
    return "" if now is None or then is None else difference(now, then)


def _with_spread(row: Row, metric: str) -> str:
    """'41.3', and where trials differ '41.3 ± 0.6'."""
    spread = row.std.get(metric)
    text = percent(row.figures.get(metric))
    return f"{text} ± {percent(spread)}" if spread else text


def _metric_table(caption: str, what: str, lines: Sequence[tuple[str, Row | None, Row | None]]) -> str:
    """Rows are (heading as HTML, evaluation, the evaluation to compare it with)."""
    rows = [row for _, row, _ in lines if row is not None]
    metrics = _present(rows)
    best = {}
    if len({row.test for row in rows}) == 1:
        for metric in metrics:
            values = {row.figures[metric] for row in rows if metric in row.figures}
            best |= {metric: max(values)} if len(values) > 1 else {}
    body = [
        (heading, *(_metric_cell(row, before, metric, best.get(metric)) for metric in metrics))
        for heading, row, before in lines
    ]
    return _table(caption, [what, *(METRICS[metric] for metric in metrics)], body)


def _metric_cell(row: Row | None, before: Row | None, metric: str, best: float | None = None) -> str:
    if row is None or metric not in row.figures:
        return MISSING
    text = _with_spread(row, metric)
    if row.figures[metric] == best:
        text = f'<strong class="best">{text}<span class="unseen"> (best)</span></strong>'
    gain = _gain(row, before, metric)
    if not gain:
        return text
    kind = {"+": "gain", "−": "loss"}.get(gain[0], "same")
    return f'{text}<span class="change {kind}">{gain}</span>'


def _time_cells(stage: Stage | None, whole: float) -> list[str]:
    """Time, images/s and share of the time of all stages."""
    if stage is None:
        return [MISSING] * 3
    if stage.seconds is None:
        return ["not ended", MISSING, MISSING]
    share = 100 * stage.seconds / whole if whole > 0 else 0.0
    bar = f'<span class="bar" style="--share:{share:.1f}%">{share:.0f} %</span>'
    return [duration(stage.seconds), rate(stage.images_per_second), bar]


def _table(
    caption: str, head: Sequence[str], body: Sequence[Sequence[str]], foot: Sequence[str] = (), kind: str = ""
) -> str:
    """A table from cells that are HTML; it scrolls by itself where the page is too narrow for it."""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    foots = f"<tfoot>{_line(foot)}</tfoot>" if foot else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption, 200)}">'
        f'<table class="{kind}"><caption><span>{escape(caption, 200)}</span></caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(map(_line, body))}</tbody>{foots}</table></div>"
    )


def _line(cells: Sequence[str]) -> str:
    rest = "".join(f"<td>{cell}</td>" for cell in cells[1:])
    return f'<tr><th scope="row">{cells[0]}</th>{rest}</tr>'
