"""Images per second from the decoded cache beside decoding the files, by the same pipeline.

    python benchmarks/cache.py FOLDER [--source 300x150 500x375] [--csv benchmarks/results/cache_cpu.csv]

The images of FOLDER are scaled to the source size and written as JPEG, as in data.py. Both sides give float32 batches
at 288x144, in turn in one process; files and cache lie in the page cache. Whole images have to be bit-identical;
`difference` is the mean distance of the others in grey levels, whose crops are cut from the resized image.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from data import SIZE, write_samples
from provenance import Results, provenance

from toplight_ext.data import (
    Augmentation,
    Colour,
    ImagePipeline,
    Sample,
    ShuffledSampler,
    Stream,
    Texture,
    cached_images,
)
from toplight_ext.data.pipeline import GREY_LEVELS

BATCH = 32
WARM, TIMED = 3, 32  # batches
VIEWS = {
    "whole image": None,
    "generic": Augmentation(),
    "everything": Augmentation(colour=Colour(), texture=Texture()),
}
COLUMNS = ["source", "view", "files_images_per_s", "cache_images_per_s", "ratio", "difference"]


def run(samples: list[Sample], images: np.ndarray | None, view, cores: int) -> tuple[float, torch.Tensor]:
    """Images per second, and the first batch."""
    stream = Stream(samples, ShuffledSampler(samples, BATCH, seed=0).batch, (view,), images=images)
    with ImagePipeline([stream], SIZE, WARM + TIMED, threads=cores, **GREY_LEVELS) as pipeline:
        batches = iter(pipeline)
        first, *_ = (next(batches).images[0][0] for _ in range(WARM))
        began = time.perf_counter()
        for _ in batches:
            pass
        return BATCH * TIMED / (time.perf_counter() - began), first


def compare(samples: list[Sample], images: np.ndarray, name: str, view, cores: int, rounds: int) -> dict:
    files, cache = zip(
        *[(run(samples, None, view, cores), run(samples, images, view, cores)) for _ in range(rounds)], strict=True
    )
    difference = (files[0][1] - cache[0][1]).abs().mean().item()
    if view is None and difference:
        raise SystemExit(f"whole images differ by {difference:.3g} grey levels")
    return {
        "view": name,
        "files_images_per_s": round(statistics.median(rate for rate, _ in files)),
        "cache_images_per_s": round(statistics.median(rate for rate, _ in cache)),
        "ratio": round(statistics.median(c / f for (f, _), (c, _) in zip(files, cache, strict=True)), 2),
        "difference": round(difference, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--source", nargs="+", default=["300x150", "500x375"], help="height x width of the files")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    results = Results(options.csv, COLUMNS, provenance("cpu")) if options.csv else None
    for source in options.source:
        with tempfile.TemporaryDirectory() as target:
            samples = write_samples(options.folder, tuple(map(int, source.split("x"))), Path(target))
            images = cached_images(samples, Path(target) / "cache", SIZE, options.cores)
            for name, view in VIEWS.items():
                row = {"source": source, **compare(samples, images, name, view, options.cores, options.rounds)}
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                if results:
                    results.add(row)


if __name__ == "__main__":
    main()
