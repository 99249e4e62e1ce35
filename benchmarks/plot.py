"""Draws results of benchmarks/ops.py: time relative to eager, and the share of the copy bandwidth.

    python benchmarks/plot.py benchmarks/results/ops_*.csv [--out FOLDER] [--format svg png]

One picture for each device, thread count and type found in the files. Of a case that stands there more than once the
last row counts. Where several slice counts were measured, the first is drawn.
"""

import argparse
import csv
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from cases import DEFINITIONS, SHAPES
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

# Colours of Okabe and Ito, told apart by people of every colour vision; a marker each besides.
STYLES = {
    "mean": ("#CC79A7", "v", "global average pool of x"),
    "adaptive_avg_pool2d": ("#CC79A7", "v", None),
    "compile": ("#E69F00", "s", "torch.compile"),
    "eager-vectors": ("#999999", "D", "eager, embedding on vectors"),
    "triton": ("#009E73", "^", "Triton"),
    "native": ("#0072B2", "o", "native"),
}
COLUMNS = 3
Cases = dict[tuple[str, str, str], dict[str, dict]]  # (op, shape, layout) -> variant -> row


def read(paths: Iterable[Path]) -> dict[tuple[str, str, str], Cases]:
    """(device, threads, type) -> its cases."""
    pictures, slices = {}, {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                picture = (row["device"], row["threads"], row["dtype"])
                if row["both_us"] and row["slices"] == slices.setdefault(picture, row["slices"]):
                    case = (row["op"], row["shape"], row["layout"])
                    pictures.setdefault(picture, {}).setdefault(case, {})[row["variant"]] = row
    return pictures


def number(row: dict, figure: str) -> float:
    return float(row[figure])


def points(cases: Cases, op: str, variant: str, figure: str) -> list[tuple[str, str, float, float, float]]:
    """Shape, layout, value, and its quartiles; "speed" is eager's time / the variant's."""
    found = []
    for (name, shape, layout), rows in cases.items():
        if name != op or variant not in rows:
            continue
        row = rows[variant]
        times = [number(row, f"both_{which}us") for which in ("", "high_", "low_")]
        if figure == "speed":
            if "eager" not in rows:
                continue
            scale = number(rows["eager"], "both_us")
        else:
            scale = number(row, "both_of_copy") * times[0]
        found.append((shape, layout, *(scale / time for time in times)))
    return found


def draw_panel(axes: Axes, cases: Cases, op: str, figure: str, shapes: list[str], variants: list[str]) -> None:
    """Shapes from top to bottom, a row of NCHW (filled) above one of NHWC (open) in each."""
    for variant in variants:
        colour, marker, _ = STYLES[variant]
        for shape, layout, value, low, high in points(cases, op, variant, figure):
            height = shapes.index(shape) + {"NCHW": -0.18, "NHWC": 0.18}.get(layout, 0)
            axes.plot((low, high), (height, height), color=colour, linewidth=1.2, zorder=2)
            face = "white" if layout == "NHWC" else colour
            axes.plot(value, height, marker, color=colour, markerfacecolor=face, markersize=5.2, zorder=3)
    axes.set_ylim(len(shapes) - 0.5, -0.5)
    axes.set_yticks(range(len(shapes)))
    axes.tick_params(length=0, which="both", labelsize=8.5)
    for height in range(0, len(shapes), 2):
        axes.axhspan(height - 0.5, height + 0.5, color="#f3f3f1", zorder=0, linewidth=0)
    axes.grid(axis="x", color="#dcdcd8", linewidth=0.6, zorder=1)
    axes.spines[:].set_visible(False)


def scale_speed(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.8), max(high, 12))
    axes.axvline(1, color="#333333", linewidth=1, zorder=1.5)
    wide = axes.get_xlim()[1] / axes.get_xlim()[0] > 60
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def scale_copy(axes: Axes) -> None:
    axes.set_xlim(-0.03, max(1.05, axes.get_xlim()[1]))
    axes.axvline(1, color="#333333", linewidth=1, zorder=1.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xticks([0, 0.5, 1])


def draw(picture: tuple[str, str, str], cases: Cases) -> plt.Figure:
    ops = [op for op in DEFINITIONS if any(op == name for name, *_ in cases)]
    shapes = [shape for shape in SHAPES if any(shape == name for _, name, _ in cases)]
    variants = [name for name in STYLES if any(name in rows for rows in cases.values())]
    columns = min(COLUMNS, len(ops))
    rows = -(-len(ops) // columns)
    panel = 1.0 + 0.27 * len(shapes)
    figure = plt.figure(figsize=(1.6 + 4.9 * columns, 1.8 + panel * rows))
    height = figure.get_figheight()
    outer = figure.add_gridspec(
        rows, columns, left=1.5 / figure.get_figwidth(), right=0.99, top=1 - 1.55 / height, bottom=0.45 / height,
        wspace=0.08, hspace=0.85 / (panel - 0.85),
    )  # fmt: skip
    for index, op in enumerate(ops):
        inner = outer[index // columns, index % columns].subgridspec(1, 2, width_ratios=(1.5, 1), wspace=0.17)
        speed, copy = (figure.add_subplot(cell) for cell in inner)
        draw_panel(speed, cases, op, "speed", shapes, variants)
        draw_panel(copy, cases, op, "copy", shapes, [name for name in variants if name in ("native", "triton")])
        scale_speed(speed)
        scale_copy(copy)
        speed.set_yticklabels([_label(shape) for shape in shapes] if index % columns == 0 else [])
        copy.set_yticklabels([])
        speed.set_title(op, loc="left", fontsize=10.5, fontweight="bold", pad=20)
        for axes, words in ((speed, "times as fast as eager"), (copy, "of copy bandwidth")):
            axes.text(0, 1.025, words, transform=axes.transAxes, fontsize=8.5, color="#555555")
    _head(figure, picture, cases, variants)
    return figure


def _label(shape: str) -> str:
    return f"{shape[:-2]}, one image" if shape.endswith("-1") else shape


def _head(figure: plt.Figure, picture: tuple[str, str, str], cases: Cases, variants: list[str]) -> None:
    device, threads, dtype = picture
    row = next(iter(next(iter(cases.values())).values()))
    of_device = f"{device}, {threads} thread{'' if threads == '1' else 's'}" if threads else device
    height = figure.get_figheight()
    figure.text(0.012, 1 - 0.3 / height, f"Forward + backward on {of_device}, {dtype}", fontsize=14, fontweight="bold")
    source = f"slices {row['slices']}; torch {row['torch']}; copy {float(row['copy_gb_per_s']):.0f} GB/s"
    source += f"; commit {row['commit']}, {row['date']}; bars: quartiles"
    figure.text(0.012, 1 - 0.55 / height, source, fontsize=9, color="#555555")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=label)
        for colour, marker, label in (STYLES[name] for name in reversed(variants))
        if label
    ]
    for face, layout in (("#333333", "NCHW"), ("white", "channels last")):
        handles.append(Line2D([], [], color="#333333", marker="o", markerfacecolor=face, linestyle="", label=layout))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.008, 1 - 0.6 / height), ncols=len(handles),
        frameon=False, fontsize=9.5, handletextpad=0.2, columnspacing=1.6,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="folder for the pictures; left out, that of the first file")
    parser.add_argument("--format", choices=("svg", "png"), nargs="+", default=["svg"])
    given = parser.parse_args()
    folder = given.out or given.results[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams["font.family"] = "DejaVu Sans"
    for picture, cases in read(given.results).items():
        figure = draw(picture, cases)
        name = re.sub(r"[^a-z0-9]+", "-", "-".join(("ops", *picture)).lower())
        for ending in given.format:
            path = folder / f"{name}.{ending}"
            figure.savefig(path, dpi=110)
            print(path)
        plt.close(figure)


if __name__ == "__main__":
    main()
