"""Images per second of a training step of MobileNetV3-Large with FDR, by the backend of our ops.

    python benchmarks/training_step.py [--batch 64] [--backend reference native triton] [--out FILE.csv]

The step is that of the VI stage: half the batch visible, half infrared, 288 x 144, two stems and the rest shared,
identity and cross-modality triplet loss, AdamW, bfloat16 autocast, channels_last. The images are random and lie on
the device, so no loading is timed. One model serves all backends, in turns; "reference" is plain PyTorch.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import elapsed, peak_allocation, quartiles
from provenance import Results, provenance

import toplight_ext as tl

SIZE = (288, 144)
IDENTITIES = 395  # of SYSU-MM01's training set
ROUNDS = 11
BACKENDS = ("reference", "triton", "native")
NEEDED = ("slice_pool", "upsample_shuffle_attention_pooled")
COLUMNS = ["model", "batch", "backend", "images_per_s", "low_images_per_s", "high_images_per_s", "peak_bytes"]


def training_step(model: torch.nn.Module, batch: int, device: str) -> Callable[[], None]:
    """One update of the model on a fixed batch of random images, two of each identity in each modality."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    half = batch // 2
    images = torch.randn(2, half, 3, *SIZE, device=device)
    visible, infrared = (part.contiguous(memory_format=torch.channels_last) for part in images)
    identities = torch.arange(half, device=device) // 2

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            output = model(visible, infrared)
            loss = F.cross_entropy(output.logits, torch.cat((identities, identities)))
        features = output.features.float().split(half)
        loss = loss + tl.losses.cross_modality_triplet(*features, identities, identities)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def available(backend: str, device: str) -> bool:
    with tl.ops.use_backend(backend):
        table = tl.ops.backends()
    return all(table[op][device].backend for op in NEEDED)


def measure(model: torch.nn.Module, batch: int, backends: list[str], device: str) -> list[dict]:
    step = training_step(model, batch, device)
    seconds, peaks = {backend: [] for backend in backends}, {}
    for backend in backends:
        with tl.ops.use_backend(backend):
            step()  # what is set up once: the optimiser's state, libraries, Triton's kernels
            with peak_allocation(device) as peak:
                step()
        (peaks[backend],) = peak
    calls = 5 if device == "cuda" else 1
    for _ in range(ROUNDS):
        for backend in backends:
            with tl.ops.use_backend(backend):
                seconds[backend].append(elapsed(step, device, calls))
    rows = []
    for backend in backends:
        low, median, high = (batch / time for time in reversed(quartiles(seconds[backend])))
        rates = {"images_per_s": median, "low_images_per_s": low, "high_images_per_s": high}
        rows.append({"backend": backend, **rates, "peak_bytes": peaks[backend]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=64, help="images, half of them of each modality")
    parser.add_argument("--backend", choices=BACKENDS, nargs="+", default=list(BACKENDS))
    parser.add_argument("--out", type=Path, default=Path(os.devnull), help="CSV file to write")
    given = parser.parse_args()
    torch.manual_seed(0)
    model = tl.create_model("mobilenetv3_large_100", num_classes=IDENTITIES, neck="fdr")
    model = model.to(given.device, memory_format=torch.channels_last).train()
    backends = [name for name in given.backend if available(name, given.device)]
    results = Results(given.out, COLUMNS, provenance(given.device))
    for row in measure(model, given.batch, backends, given.device):
        results.add({"model": "mobilenetv3_large_100 + FDR", "batch": given.batch, **row})
        print(f"{row['backend']:10} {row['images_per_s']:8.1f} images/s, peak {row['peak_bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
