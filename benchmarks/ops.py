"""Times the ops and FDR, forward and backward, against plain PyTorch in eager mode and under torch.compile.

    python benchmarks/ops.py --op slice_pool_upsample FDR --shape TOPLight     # one or two minutes
    python benchmarks/ops.py --op all --shape all --out benchmarks/results/ops_cpu.csv --check

All variants of a case run in one process and in turns. First outputs and gradients are compared with float64: a
variant that is wrong (trial.RIGHT) is not timed. torch.compile takes about 10 seconds a case, and little when its
cache has the case already; the definition of FDR on maps takes half a minute a call on the largest shapes.

The variants
    eager            plain PyTorch; of FDR the definition drawn on maps (compositions.fdr_on_maps)
    eager-vectors    of FDR only: its embedding on vectors as ours has it, the rest plain PyTorch
    mean, adaptive_avg_pool2d   of FDR(embed=False).pooled only: a global average pool of the same map
    compile, compile-vectors    the two eager ones under torch.compile(dynamic=False)
    native, triton   ours
FDR runs in training mode, with a batch of one image (shapes that end in -1) in evaluation mode.

The figures of a row
    forward_us, both_us    median over the samples, with quartiles (_low_, _high_), of a forward that keeps what its
        backward needs, and of forward + backward; the gradient that arrives is dense, in the layout of the output
    over_native    median over the rounds of this time / native's, forward + backward
    forward_bytes, both_bytes    the fewest that have to be read and written: see cases.Case.moved
    forward_of_copy, both_of_copy    time of a copy that moves as many bytes, in the same rounds, / this time
    copy_us, fresh_copy_us    that copy for forward + backward, and one into memory allocated for it, as outputs are
    call_us    forward + backward of an autograd.Function with the same inputs and outputs that computes nothing
    copy_gb_per_s    bandwidth of a copy far larger than any cache, read + written
    peak_bytes    of forward + backward above the inputs, the parameters and the gradient that arrives
    kept_bytes    storages that forward keeps for backward, other than inputs and parameters
    kept_input_bytes    those of the inputs that it keeps
"""

import argparse
import itertools
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from cases import DEFINITIONS, LAYOUTS, SHAPES, SLICES, VARIANTS, Case, Key
from demands import missed
from measuring import Copy
from provenance import Results, provenance
from trial import KINDS, measure

KEY = ("op", "shape", "size", "slices", "layout", "dtype")
FIGURES = [f"{kind}_{figure}" for kind in KINDS for figure in ("us", "low_us", "high_us", "of_copy", "bytes")]
COLUMNS = [*KEY, "variant", "failure", "error", "samples", *FIGURES, "over_native", "copy_us", "fresh_copy_us"]
COLUMNS += ["call_us", "peak_bytes", "kept_bytes", "kept_input_bytes"]
PEERS = tuple(name for name in VARIANTS if name != "native")
HEADER = f"{'':66}{'forward':>10}{'both':>10} {'of copy':>8}  forward + backward of the others / native's"


def keys(given: argparse.Namespace) -> Iterator[Key]:
    for op, shape, slices, dtype in itertools.product(given.op, given.shape, given.slices, given.dtype):
        for layout in DEFINITIONS[op].layouts:
            if layout not in LAYOUTS or layout in given.layout:
                yield Key(op, shape, slices, layout, dtype, given.device)


def describe(key: Key, rows: list[dict]) -> Iterator[str]:
    """A line of the table, then one for each variant that failed and each demand that is missed."""
    timed = {row["variant"]: row for row in rows if "both_us" in row}
    slices = ",".join(map(str, key.slices))
    line = f"{key.op:34}{key.shape:11}{slices:4}{key.layout:8}{key.dtype:9}"
    if "native" in timed:
        native = timed["native"]
        line += f"{native['forward_us']:8.0f}us{native['both_us']:8.0f}us{native['both_of_copy']:9.1%} "
        line += "".join(f" {name} {timed[name]['both_us'] / native['both_us']:.2f}" for name in PEERS if name in timed)
    yield line
    for row in rows:
        if "failure" in row:
            yield f"    {row['variant']} FAILED: {row['failure']} {row.get('error', '')}"
    yield from (f"    MISSED: {words}" for words in missed(key, timed))


def run(given: argparse.Namespace) -> int:
    """The number of failures, and with --check of missed demands."""
    began = time.monotonic()
    bandwidth = Copy.bandwidth(given.device)
    constant = provenance(given.device) | {"copy_gb_per_s": round(bandwidth / 1e9, 1)}
    results = Results(given.out, COLUMNS, constant)
    print(*(f"{name} {value}" for name, value in constant.items()), sep=", ")
    print(HEADER)
    failures = misses = 0
    for key in keys(given):
        rows = measure(Case(key), given.variant)
        case = {name: getattr(key, name) for name in KEY}
        case |= {"size": "x".join(map(str, key.size)), "slices": "x".join(map(str, key.slices))}
        for row in rows:
            results.add(case | row)
        lines = list(describe(key, rows))
        print(*lines, sep="\n", flush=True)
        failures += sum("failure" in row for row in rows)
        misses += sum("MISSED" in line for line in lines)
    print(f"{failures} variants failed, {misses} demands missed, {time.monotonic() - began:.0f} s")
    return failures + (misses if given.check else 0)


def slices_of(text: str) -> tuple[int, int]:
    n_h, n_v = text.split(",")
    return int(n_h), int(n_v)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--op", choices=[*DEFINITIONS, "all"], nargs="+", default=["all"])
    parser.add_argument("--shape", choices=[*SHAPES, "all"], nargs="+", default=["all"])
    parser.add_argument("--slices", nargs="+", default=["6,3"], metavar="N_H,N_V", help='or "all": 6,3 4,2 9,5')
    parser.add_argument("--layout", choices=LAYOUTS, nargs="+", default=list(LAYOUTS))
    types = ("float32", "float64", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=types, nargs="+", default=["float32"])
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--out", type=Path, default=Path(os.devnull), help="CSV file to write")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a demand (demands.py) is missed")
    found = parser.parse_args(given)
    found.op = list(DEFINITIONS) if "all" in found.op else found.op
    found.shape = list(SHAPES) if "all" in found.shape else found.shape
    try:
        found.slices = list(SLICES) if "all" in found.slices else [slices_of(text) for text in found.slices]
    except ValueError:
        parser.error(f"--slices takes pairs like 6,3 or all, got {' '.join(found.slices)}")
    return found


def main() -> int:
    given = arguments()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", message="shuffle attention: ")  # fewer groups than 64: what FDR does as well
    return 1 if run(given) else 0


if __name__ == "__main__":
    sys.exit(main())
