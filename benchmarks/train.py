"""Images per second of visible-infrared training, loading included: our loop beside one in the manner of AGW's code.

    python benchmarks/train.py [--batch 32] [--precision float32 bfloat16] [--compile] [--out FILE.csv]

Both train the same network from the same weights on the same images and P x K batches: drawn walkers of 288 x 144 in
JPEG files, crop and flip, identity and cross-modality triplet loss, SGD with momentum. Ours is the loop of
`toplight train`. The other is how the field's public code trains (Ye et al., 2021): eager float32 in NCHW, modules of
plain PyTorch, a DataLoader with four workers (two on two cores) that decodes by Pillow, a loss that is read at every
step. They take turns of a few steps; `ratio` is the median of ours over theirs, turn by turn. Nothing is timed before
the losses of both on one batch agree.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import quartiles
from PIL import Image
from provenance import Results, provenance
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import toplight_ext as tl
from toplight_ext import data, training
from toplight_ext.training.loop import Training
from toplight_ext.training.stages import build_stage

SIZE = (288, 144)
IMAGES_PER_IDENTITY = 4
TURNS, STEPS = 7, 3
COLUMNS = ["model", "neck", "batch", "loop", "images_per_s", "low_images_per_s", "high_images_per_s", "ratio"]

RECIPE = """
name = "benchmark"
size = [{height}, {width}]
threads = {threads}
precision = "{precision}"
compile = {compiled}
data = {{ name = "synthetic", root = "{root}", split = "train" }}
test = {{ name = "synthetic", root = "{root}", split = "dev" }}
[model]
backbone = "{model}"
neck = "{neck}"
[vi]
epochs = 1000
identities = {identities}
images_per_identity = {images}
label_smoothing = 0.0
visible = {{ generic = {{ deform_probability = 0.0 }} }}
infrared = {{ generic = {{ deform_probability = 0.0 }} }}
optimiser = {{ name = "sgd", learning_rate = 1e-3, warmup_epochs = 0.0 }}
"""


class Pairs(Dataset):
    """Item i is the i-th visible and the i-th infrared image of all batches in a row, and their labels."""

    def __init__(self, samples, labels: np.ndarray, batches: list[tuple[np.ndarray, np.ndarray]]):
        self.samples, self.labels = samples, labels
        self.pairs = [pair for visible, infrared in batches for pair in zip(visible, infrared, strict=True)]
        self.transform = transforms.Compose(
            [
                transforms.Resize(SIZE),
                transforms.Pad(10),
                transforms.RandomCrop(SIZE),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.pipeline.IMAGENET_MEAN, data.pipeline.IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int):
        images = [self.transform(Image.open(self.samples[i].path).convert("RGB")) for i in self.pairs[index]]
        return *images, *(self.labels[i] for i in self.pairs[index])


def plain_loop(model: torch.nn.Module, loader: DataLoader, device: torch.device) -> Iterator[float]:
    """Every step gives its loss."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.05)
    model.to(device).train()
    for visible, infrared, *labels in loader:
        visible, infrared = visible.to(device), infrared.to(device)
        labels = [rows.to(device) for rows in labels]
        with tl.ops.use_backend("reference"):
            loss = plain_loss(model, visible, infrared, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield loss.item()


def plain_loss(model: torch.nn.Module, visible, infrared, labels) -> torch.Tensor:
    output = model(visible, infrared)
    features = output.features.split([len(visible), len(infrared)])
    return F.cross_entropy(output.logits, torch.cat(labels)) + tl.losses.cross_modality_triplet(*features, *labels)


def our_loop(stage: Training) -> Iterator[None]:
    with stage.batches() as batches:
        for batch in batches:
            stage.take(batch)
            stage.log(leave=1)
            yield


def seconds(loop: Iterator, device: torch.device) -> float:
    began = time.perf_counter()
    for _ in range(STEPS):
        next(loop)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def build(given, precision: str, root: Path, scratch: Path) -> tuple[Training, torch.nn.Module, Callable]:
    """Our loop, its network in a copy, and what makes the other loop's loader."""
    text = RECIPE.format(
        height=SIZE[0],
        width=SIZE[1],
        threads=os.cpu_count(),
        precision=precision,
        compiled=str(given.compile).lower(),
        root=root,
        model=given.model,
        neck=given.neck,
        identities=given.batch // (2 * IMAGES_PER_IDENTITY),
        images=IMAGES_PER_IDENTITY,
    )
    file = scratch / f"{precision}.toml"
    file.write_text(text)
    recipe = training.load_recipe(file)
    torch.manual_seed(0)
    stage = build_stage(recipe, "vi", None)
    twin = tl.create_model(given.model, num_classes=len(set(stage.labels)), neck=given.neck)
    twin.load_state_dict(stage.model.state_dict())

    def loader() -> DataLoader:
        batches = [tuple(stream.indices(step) for stream in stage.streams) for step in range(TURNS * STEPS + 20)]
        pairs = Pairs(stage.streams[0].samples, stage.labels, batches)
        return DataLoader(pairs, batch_size=given.batch // 2, num_workers=min(4, os.cpu_count()), drop_last=True)

    loop = Training(training.Run.create(recipe, scratch / precision), stage, torch.device(given.device))
    return loop, twin, loader


def check(twin: torch.nn.Module, ours: Training) -> None:
    """Both losses on one batch are the same."""
    torch.manual_seed(1)
    half = 2 * IMAGES_PER_IDENTITY
    images, labels = torch.randn(2, half, 3, *SIZE), [torch.arange(half) // IMAGES_PER_IDENTITY] * 2
    with tl.ops.use_backend("reference"), torch.no_grad():
        expected = plain_loss(twin.train(), *images, labels).item()
    objective = ours.stage.objective.train()
    with torch.no_grad():
        found = sum(objective([x.to(memory_format=torch.channels_last) for x in images], labels).values()).item()
    assert abs(found - expected) < 1e-3 * abs(expected), f"the losses differ: {found} and {expected}"


def measure(given, precision: str, root: Path, scratch: Path) -> Iterator[dict]:
    device = torch.device(given.device)
    ours, twin, loader = build(given, precision, root, scratch)
    if device.type == "cpu":
        check(twin, ours)
    loops = {"AGW-style": plain_loop(twin, iter(loader()), device), f"ours, {precision}": our_loop(ours)}
    for loop in loops.values():
        seconds(loop, device)  # what is set up once: workers, DALI's graph, compilation, the optimiser's state
    spent: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(TURNS):
        for name, loop in loops.items():
            spent[name].append(seconds(loop, device))
    for name, times in spent.items():
        low, median, high = (STEPS * given.batch / time for time in reversed(quartiles(times)))
        ratio = statistics.median(a / b for a, b in zip(spent["AGW-style"], times, strict=True))
        yield {"loop": name + (", compiled" if given.compile and name != "AGW-style" else ""), "images_per_s": median,
               "low_images_per_s": low, "high_images_per_s": high, "ratio": ratio}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="mobilenetv3_large_100")
    parser.add_argument("--neck", default="fdr")
    parser.add_argument("--batch", type=int, default=32, help="images, half of them of each modality")
    parser.add_argument("--precision", nargs="+", default=["float32"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(os.devnull), help="CSV file to write")
    given = parser.parse_args()
    results = Results(given.out, COLUMNS, provenance(given.device))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "drawn"
        data.draw_synthetic(root, identities=40, dev_identities=1, size=SIZE)
        for precision in given.precision:
            for row in measure(given, precision, root, Path(scratch)):
                results.add({"model": given.model, "neck": given.neck, "batch": given.batch, **row})
                print(f"{row['loop']:20} {row['images_per_s']:8.1f} images/s, {row['ratio']:.2f} times", flush=True)


if __name__ == "__main__":
    main()
