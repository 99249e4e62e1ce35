"""Images per second of the data pipeline beside a chain of DALI operators and a torchvision DataLoader; operator costs.

    python benchmarks/data.py FOLDER [--source 300x150] [--csv benchmarks/results/data_300x150_cpu.csv] [--operators]

The images of FOLDER are scaled to the source size and written as JPEG of quality 90, as crops of a surveillance
camera arrive. Every pipeline reads these files, augments with the same factors and gives float32 batches at 288x144;
they run in turn in one process, each from the start of its own threads or workers. A speed is printed only for
images that agree with ours: those of the DALI chain in our order closely, the others as far as the order of
operations and torchvision's definitions let them. `difference` is the mean distance to our images in grey levels.

`--operators` times single DALI operators on the CPU and the PyTorch forms that were weighed. With
`--device cuda` our pipeline works on the GPU.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from data_operators import COLUMNS as OPERATOR_COLUMNS
from data_operators import time_operators
from data_peers import Task, naive_chain, torchvision_loader
from PIL import Image
from provenance import Results, provenance

from toplight_ext.data import (
    Augmentation,
    Colour,
    ImagePipeline,
    Modality,
    Sample,
    Stream,
    Texture,
)

SIZE = (288, 144)
WARM, TIMED = 2, 10  # batches
VIEWS = {
    "generic": Augmentation(),
    "colour path": Augmentation(colour=Colour()),
    "texture path": Augmentation(texture=Texture()),
    "everything": Augmentation(colour=Colour(), texture=Texture()),
}
# How far from ours the images may be, in grey levels. The chain rounds after every operation and interpolates twice.
LIMITS = {"DALI, one by one, after the resize": 2.0, "DALI, one by one": 4.0, "torchvision": 15.0}
COLUMNS = ["source", "view", "pipeline", "images_per_s", "ours_times_as_fast", "difference"]


def write_samples(folder: Path, source: tuple[int, int], target: Path, count: int = 256) -> list[Sample]:
    """JPEGs of size `source` (height, width), made from the images below `folder`."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp"))
    if not found:
        raise SystemExit(f"{folder}: no images")
    samples = []
    for i in range(count):
        path = target / f"{i}.jpg"
        Image.open(found[i % len(found)]).convert("RGB").resize(source[::-1]).save(path, quality=90)
        samples.append(Sample(path, i, Modality.VISIBLE, 1))
    return samples


def ours(task: Task, steps: int) -> Iterator[torch.Tensor]:
    stream = Stream(task.samples, task.indices, (task.view,))
    options = {"device": task.device, "threads": task.cores, "mean": task.mean, "std": task.std}
    with ImagePipeline([stream], task.size, steps, task.seed, **options) as batches:
        for batch in batches:
            yield batch.images[0][0]


PEERS: dict[str, Callable[[Task, int], Iterable[torch.Tensor]]] = {
    "DALI, one by one, after the resize": functools.partial(naive_chain, resize_first=True),
    "DALI, one by one": functools.partial(naive_chain, resize_first=False),
    "torchvision": torchvision_loader,
}


def differences(task: Task) -> dict[str, float]:
    """Per pipeline: mean distance of its first batch to ours in grey levels.

    Raises:
        SystemExit: it is larger than `LIMITS` allows.
    """
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (task.mean, task.std))
    expected, found = next(ours(task, 1)).cpu() * std + mean, {}
    for name, make in PEERS.items():
        images = next(iter(make(task, 1))) * std + mean
        inside = (images > 0.5).any(dim=1, keepdim=True).expand_as(images)  # torchvision's deformation leaves black
        found[name] = (images - expected)[inside].abs().mean().item()
        if not found[name] <= LIMITS[name]:
            raise SystemExit(f"{name}: {found[name]:.2f} grey levels from our images, more than {LIMITS[name]}")
    return found


def speed(batches: Iterator[torch.Tensor]) -> float:
    """Images per second, once the first batches have come."""
    for _ in range(WARM):
        next(batches)
    start = time.perf_counter()
    return sum(len(images) for images in batches) / (time.perf_counter() - start)


def measure(samples: list[Sample], source: tuple[int, int], options: argparse.Namespace) -> Iterator[dict]:
    for view_name, view in VIEWS.items():
        task = Task(samples, view, source, SIZE, options.batch, options.cores, options.device)
        distances = {"ours": 0.0, **differences(task)}
        found = {name: [] for name in distances}
        for _ in range(options.repeats):
            for name, make in {"ours": ours, **PEERS}.items():
                found[name].append(speed(iter(make(task, WARM + TIMED))))
        for name, values in found.items():
            yield {
                "source": options.source,
                "view": view_name,
                "pipeline": name,
                "images_per_s": statistics.median(values),
                "ours_times_as_fast": statistics.median(a / b for a, b in zip(found["ours"], values, strict=True)),
                "difference": distances[name],
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", default="300x150", help="height x width of the files")
    parser.add_argument("--cores", type=int, default=2, help="threads of DALI, workers of the DataLoader")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of our pipeline")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--operators", action="store_true", help="time single operators instead")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    source = tuple(map(int, options.source.split("x")))
    columns = OPERATOR_COLUMNS if options.operators else COLUMNS
    results = options.csv and Results(options.csv, columns, provenance(options.device))
    with tempfile.TemporaryDirectory() as folder:
        samples = write_samples(options.folder, source, Path(folder))
        if options.operators:
            images = [np.array(Image.open(sample.path)) for sample in samples[: options.batch]]
            rows = time_operators(images, SIZE, options.cores)
        else:
            rows = measure(samples, source, options)
        for row in rows:
            print(
                ", ".join(
                    f"{key} {value:.3g}" if isinstance(value, float) else f"{value}" for key, value in row.items()
                )
            )
            if results:
                results.add(row)


if __name__ == "__main__":
    main()
