"""What the backbones cost and how they are cut, as `toplight models` and docs/models.md show it.

`python -m toplight_ext.models.table > docs/models.md` writes that page anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from .backbones import BACKBONES, BUILT_IN, find_partition
from .blocks import block_sizes, cut, set_last_stride
from .counting import PAPER_SIZE, count_flops, count_paper_flops
from .create import create_backbone

PAPER_FIGURES = {
    "resnet50": 3_562_000_000,
    "convnext_tiny": 3_620_000_000,
    "shufflenet_v2_x1_0": 139_000_000,
    "shufflenet_v2_x1_5": 265_000_000,
    "ghostnet_100": 150_000_000,
    "ghostnet_130": 281_000_000,
    "mobilenetv3_small_100": 104_000_000,
    "mobilenetv3_large_100": 250_000_000,
}
_FITS = 0.015  # relative


class Row(NamedTuple):
    """One backbone: its seven blocks once, without neck and head; multiply-adds for one image of 288x144."""

    name: str
    parameters: int
    multiply_adds: int
    multiply_adds_paper: int  # `count_paper_flops`
    paper: int | None  # what the paper prints; None: nothing that we know of
    feature: tuple[int, int, int]  # channels, height and width after Block7
    compiles: bool | None  # torch.compile(fullgraph=True); None: a user's backbone, not tried
    exports: bool | None  # to ONNX, with equal results in onnxruntime

    @property
    def fits(self) -> bool | None:
        """Whether our count in the paper's way is within 1.5 % of the paper's figure."""
        return None if self.paper is None else abs(self.multiply_adds_paper / self.paper - 1) <= _FITS


def model_rows() -> list[Row]:
    """The table of all backbones.

    Raises:
        MissingExtra: the package of a backbone is not installed.
    """
    return [_row(name) for name in BACKBONES]


def _row(name: str) -> Row:
    body = nn.Sequential(*_blocks(name))
    tried = True if name in BUILT_IN else None  # python_tests/test_backbone_runs.py compiles and exports these
    return Row(
        name,
        parameters=sum(parameter.numel() for parameter in body.parameters()),
        multiply_adds=count_flops(body),
        multiply_adds_paper=count_paper_flops(name),
        paper=PAPER_FIGURES.get(name),
        feature=block_sizes(body, PAPER_SIZE)[-1],
        compiles=tried,
        exports=tried,
    )


def _blocks(name: str, last_stride: int = 2) -> list[nn.Module]:
    partition = find_partition(name)
    with torch.device("meta"):
        root = create_backbone(name, partition)
    set_last_stride(root, partition, last_stride)
    return cut(root, partition)


HEAD = (
    "backbone",
    "parameters (M)",
    "multiply-adds (M)",
    "in the paper's way",
    "the paper's figure",
    "feature",
    "torch.compile",
    "ONNX",
)


def cells(row: Row) -> tuple[str, ...]:
    """A row as people read it, under `HEAD`."""
    return (
        row.name,
        f"{row.parameters / 1e6:.2f}",
        _millions(row.multiply_adds),
        _millions(row.multiply_adds_paper),
        _figure(row),
        _size(row.feature),
        *({True: "yes", False: "no", None: "not tried"}[fact] for fact in (row.compiles, row.exports)),
    )


def _figure(row: Row) -> str:
    if row.paper is None:
        return "none known"
    deviation = f"{_millions(row.paper)} ({100 * (row.multiply_adds_paper / row.paper - 1):+.2f} %)"
    return deviation if row.fits else f"{deviation}, does not fit"


def _millions(number: int) -> str:
    return f"{number / 1e6:,.0f}"


def _size(size: tuple[int, int, int]) -> str:
    channels, height, width = size
    return f"{channels} x {height} x {width}"


def models_page(rows: Sequence[Row]) -> str:
    """docs/models.md: the table, and the blocks of each backbone with their output sizes."""
    parts = [_INTRODUCTION, _markdown(HEAD, [cells(row) for row in rows]), _BLOCKS]
    parts += [f"### {row.name}\n{_blocks_table(row.name)}" for row in rows]
    return "\n\n".join(parts) + "\n"


def _blocks_table(name: str) -> str:
    partition = find_partition(name)
    sizes = [block_sizes(_blocks(name), PAPER_SIZE)]
    head = ["block", "children", "output"]
    if partition.strided:
        sizes.append(block_sizes(_blocks(name, last_stride=1), PAPER_SIZE))
        head.append("with last stride 1")
    return _markdown(
        head,
        [
            (f"Block{number}", " ".join(f"`{path}`" for path in block), *map(_size, outputs))
            for number, (block, *outputs) in enumerate(zip(partition.blocks, *sizes, strict=True), start=1)
        ],
    )


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


_INTRODUCTION = """# The backbones

Written by `python -m toplight_ext.models.table > docs/models.md`; a test compares it with the code.

Names are those of timm, for ShuffleNetV2 of torchvision; `agw` is ResNet-50 with non-local blocks, `lightcnn29` and its
second version are the networks of their authors. Parameters and multiply-adds are those of one path through Block1 ..
Block7, without neck and head, for one image of 288x144 with last stride 2. "In the paper's way" counts the first
convolution twice, two for each number that a BatchNorm writes, and a classifier of 1000 classes: the paper does not say
how it counts, and this is the usual way that comes nearest to its figures. Where a figure is more than 1.5 % off, no
usual way of counting was found that fits. The last two columns are tested: `torch.compile(fullgraph=True)`, and an
export to ONNX that gives the same features in onnxruntime."""

_BLOCKS = """## The seven blocks

The paper prints the blocks of MobileNetV3-Large; those of the other backbones are our choice, by analogy
(`toplight_ext/models/backbones.py`). Outputs are channels x height x width for an image of 288x144. ViT's class token
rides along as a row above its map and is left out after Block7. Another network is cut by naming its children:

```python
from toplight_ext.models import BACKBONES, Partition, create_model

BACKBONES["resnet18"] = Partition(
    blocks=(
        ("conv1", "bn1", "act1", "maxpool"),
        ("layer1",),
        ("layer2.0",),
        ("layer2.1",),
        ("layer3",),
        ("layer4.0",),
        ("layer4.1",),
    ),
    left_out=("global_pool", "fc"),
    strided="layer4.0",
)
model = create_model("resnet18", num_classes=395, duplicated=4)
```"""


if __name__ == "__main__":
    print(models_page(model_rows()), end="")
