"""Times the ops against plain PyTorch: eager, torch.compile, our compiled kernels, our Triton kernels.

All variants of a case run in one process and in turns. A variant is timed only if its result is right. Printed, and
written as CSV: median and quartiles of forward and of forward + backward in microseconds, the bytes that cannot be
avoided, and the share of the copy bandwidth that they make; the copy is measured in the same run.

    python benchmarks/ops.py [--device cpu|cuda] [--shape NAME ...] [--dtype NAME ...] [--out FILE.csv]
"""

import argparse
import contextlib
import csv
import datetime
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from toplight_ext import ops

SHAPES = {  # (B, C, H, W), slices, groups
    "TOPLight": ((64, 1280, 9, 5), (6, 3), 64),
    "TOPLight, one image": ((1, 1280, 9, 5), (6, 3), 64),
    "AGW": ((64, 2048, 18, 9), (6, 3), 64),
    "DEEN": ((96, 1024, 24, 9), (9, 5), 64),
    "large": ((16, 256, 96, 32), (6, 3), 32),
}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
# Values moved per value of x, forward and backward.
MOVED = {"slice_pool_upsample": (3, 3), "shuffle_attention": (2, 3)}
ROUNDS = 15
COLUMNS = ["op", "shape", "layout", "dtype", "variant", "error", "forward_bytes", "both_bytes"]
COLUMNS += [f"{kind}_{figure}" for kind in ("forward", "both") for figure in ("us", "low_us", "high_us", "of_copy")]
ERROR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # what passes as right, in norm against float64


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], device: str, calls: int) -> float:
    """Seconds per call, over so many calls in a row."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronise(device)
    return (time.perf_counter() - start) / calls


def copy_bandwidth(device: str) -> float:
    """Bytes read and written per second by a copy of 1 GiB (CPU: 128 MiB)."""
    source = torch.ones((1 << 28) if device == "cuda" else (1 << 25), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device, 3) for _ in range(10))


def inputs_of(op: str, shape: tuple[int, ...], groups: int, dtype: torch.dtype, layout, device: str):
    """x, and the parameters of shuffle attention."""
    x = torch.randn(shape, device=device).to(dtype).to(memory_format=layout).requires_grad_()
    count = 6 if op == "shuffle_attention" else 0
    return [x] + [torch.randn(1, shape[1] // (2 * groups), 1, 1, device=device).requires_grad_() for _ in range(count)]


def variants_of(op: str, arguments: tuple, device: str) -> dict[str, tuple[Callable, Callable]]:
    """Name -> function of the inputs, and context to call it in."""

    def eager(x, *parameters):
        return getattr(ops.reference, op)(x, *(p.to(x.dtype) for p in parameters), *arguments)

    def ours(*inputs):
        return getattr(ops, op)(*inputs, *arguments)

    torch._dynamo.reset()
    compiled = torch.compile(eager, dynamic=False)
    variants = {"eager": (eager, contextlib.nullcontext), "compile": (compiled, contextlib.nullcontext)}
    for backend in ("native", "triton"):
        with ops.use_backend(backend):
            if ops.backends()[op][device].backend is not None:
                variants[backend] = (ours, lambda backend=backend: ops.use_backend(backend))
    return variants


def measure(op: str, inputs: list, slices, groups: int, device: str) -> Iterator[dict]:
    """Median and quartiles of every variant, in microseconds; a variant with a wrong result has none."""
    arguments = (slices,) if op == "slice_pool_upsample" else (groups,)
    exact = getattr(ops.reference, op)(*(v.detach().double() for v in inputs), *arguments)
    grad = torch.randn_like(exact).to(inputs[0].dtype)
    rows, calls = [], {}
    for name, (function, context) in variants_of(op, arguments, device).items():

        def forward(function=function):
            with torch.no_grad():
                return function(*inputs)

        def both(function=function):
            return torch.autograd.grad(function(*inputs), inputs, grad)

        with context():
            error = ((forward().double() - exact).norm() / exact.norm()).item()
            wrong = not error <= ERROR[inputs[0].dtype]
            rows.append({"variant": name, "error": f"{error:.1e}"})
            if not wrong:
                both()
                once = max(seconds(both, device, 1), 1e-6)
                calls[name] = (forward, both, context, max(1, min(50, int(0.02 / once))))
    times = {(name, kind): [] for name in calls for kind in ("forward", "both")}
    for _ in range(ROUNDS):
        for name, (forward, both, context, count) in calls.items():
            with context():
                times[name, "forward"].append(1e6 * seconds(forward, device, count))
                times[name, "both"].append(1e6 * seconds(both, device, count))
    for row in rows:
        for kind in ("forward", "both"):
            if row["variant"] in calls:
                low, median, high = statistics.quantiles(times[row["variant"], kind], n=4)
                row |= {f"{kind}_us": median, f"{kind}_low_us": low, f"{kind}_high_us": high}
        yield row


def provenance(device: str) -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "commit": commit or "none",
        "date": datetime.date.today().isoformat(),
    }


def cases(device: str, shapes: list[str], dtypes: list[str]) -> Iterator[dict]:
    """Every op, shape, layout and type, with its measured variants as rows."""
    for op, (forward, backward) in MOVED.items():
        for name in shapes:
            shape, slices, groups = SHAPES[name]
            for layout_name, layout in LAYOUTS.items():
                for dtype in dtypes:
                    inputs = inputs_of(op, shape, groups, getattr(torch, dtype), layout, device)
                    case = {"op": op, "shape": name, "layout": layout_name, "dtype": dtype}
                    size = inputs[0].nbytes
                    case |= {"forward_bytes": forward * size, "both_bytes": (forward + backward) * size}
                    for row in measure(op, inputs, slices, groups, device):
                        yield case | row


def describe(row: dict) -> str:
    line = f"{row['op']:20} {row['shape']:20} {row['layout']} {row['dtype']:9} {row['variant']:8}"
    if "both_us" not in row:
        return f"{line} WRONG, error {row['error']}"
    parts = (f"{row[f'{kind}_us']:10.1f} us {row[f'{kind}_of_copy']:6.1%}" for kind in ("forward", "both"))
    return line + "".join(parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), nargs="+", default=["float32"])
    parser.add_argument("--out", type=Path, default=Path("/dev/null"), help="CSV file to write")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    bandwidth = copy_bandwidth(given.device)
    print(f"copy: {bandwidth / 1e9:.1f} GB/s")
    constant = {"copy_gb_per_s": bandwidth / 1e9} | provenance(given.device)
    wrong = 0
    with given.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *constant])
        writer.writeheader()
        for row in cases(given.device, given.shape, given.dtype):
            for kind in ("forward", "both") if "both_us" in row else ():
                row[f"{kind}_of_copy"] = row[f"{kind}_bytes"] / (row[f"{kind}_us"] * 1e-6) / bandwidth
            wrong += "both_us" not in row
            writer.writerow(row | constant)
            file.flush()
            print(describe(row), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
