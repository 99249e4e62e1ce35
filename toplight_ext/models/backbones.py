"""The backbones: which children of each form which block.

The paper prints the blocks of MobileNetV3-Large alone. The others follow it by analogy, our choice: Block1 the stem,
Blocks 2 and 3 at stride 4, Block4 at 8, Block5 at 16, Block6 at 32, Block7 the end of the network, as far as its
strides allow. Some networks of timm run their last convolution or norm after the pool; here it acts on the map, where
FDR follows it, as the paper's multiply-adds demand.
"""

from __future__ import annotations

import dataclasses

from ..errors import InputError
from .agw import non_local
from .blocks import Partition
from .layouts import channels_behind, tokens
from .lightcnn import lightcnn29, lightcnn29_v2

_POOLED = ("global_pool", "flatten", "classifier")  # of timm's mobile networks

_GHOSTNET = Partition(
    blocks=(
        ("conv_stem", "bn1", "act1", "blocks.0"),
        ("blocks.1",),
        ("blocks.2",),
        ("blocks.3", "blocks.4"),
        ("blocks.5", "blocks.6"),
        ("blocks.7", "blocks.8"),
        ("blocks.9", "conv_head", "act2"),
    ),
    left_out=_POOLED,
    strided="blocks.7",
)

_SHUFFLENET_V2 = Partition(
    blocks=(
        ("conv1", "maxpool"),
        ("stage2.0",),
        ("stage2.1",),
        ("stage2.2", "stage2.3"),
        ("stage3",),
        ("stage4",),
        ("conv5",),
    ),
    left_out=("fc",),
    strided="stage4.0",
    source="torchvision",
)

_RESNET50 = Partition(
    blocks=(
        ("conv1", "bn1", "act1", "maxpool"),
        ("layer1.0",),
        ("layer1.1", "layer1.2"),
        ("layer2",),
        ("layer3",),
        ("layer4.0", "layer4.1"),
        ("layer4.2",),
    ),
    left_out=("global_pool", "fc"),
    strided="layer4.0",
)

# With its own embedding of a face, which ends its map.
_LIGHTCNN29 = Partition(
    blocks=(
        ("gray", "conv1", "pool1"),
        ("block1", "group1", "pool2"),
        ("block2",),
        ("group2", "pool3"),
        ("block3", "group3"),
        ("block4",),
        ("group4", "pool4", "fc"),
    ),
    left_out=("fc2",),
    source=lightcnn29,
)

# A user's own network joins them by `BACKBONES[name] = Partition(...)`.
BACKBONES = {
    "resnet50": _RESNET50,
    "convnext_tiny": Partition(
        blocks=(
            ("stem",),
            ("stages.0.downsample", "stages.0.blocks.0"),
            ("stages.0.blocks.1", "stages.0.blocks.2"),
            ("stages.1",),
            ("stages.2",),
            ("stages.3.downsample", "stages.3.blocks.0", "stages.3.blocks.1"),
            ("stages.3.blocks.2", "norm_pre", "head.norm"),
        ),
        left_out=("head.global_pool", "head.flatten", "head.pre_logits", "head.drop", "head.fc"),
        strided="stages.3.downsample",
    ),
    "vit_base_patch16_224": Partition(
        blocks=(
            ("patch_embed", "cls_token", "pos_embed", "norm_pre"),
            ("blocks.0", "blocks.1"),
            ("blocks.2", "blocks.3"),
            ("blocks.4", "blocks.5"),
            ("blocks.6", "blocks.7"),
            ("blocks.8", "blocks.9"),
            ("blocks.10", "blocks.11", "norm"),
        ),
        left_out=("pos_drop", "patch_drop", "fc_norm", "head_drop", "head"),
        layout=tokens,
        options={"dynamic_img_size": True},
    ),
    "swin_tiny_patch4_window7_224": Partition(
        blocks=(
            ("patch_embed",),
            ("layers.0.downsample", "layers.0.blocks.0"),
            ("layers.0.blocks.1",),
            ("layers.1",),
            ("layers.2",),
            ("layers.3.downsample", "layers.3.blocks.0"),
            ("layers.3.blocks.1", "norm"),
        ),
        left_out=("head",),
        layout=channels_behind,
        options={"strict_img_size": False},
    ),
    "shufflenet_v2_x1_0": _SHUFFLENET_V2,
    "shufflenet_v2_x1_5": _SHUFFLENET_V2,
    "ghostnet_100": _GHOSTNET,
    "ghostnet_130": _GHOSTNET,
    "mobilenetv3_small_100": Partition(
        blocks=(
            ("conv_stem", "bn1"),
            ("blocks.0",),
            ("blocks.1",),
            ("blocks.2",),
            ("blocks.3",),
            ("blocks.4",),
            ("blocks.5", "conv_head", "norm_head", "act2"),
        ),
        left_out=_POOLED,
        strided="blocks.4.0",
    ),
    "mobilenetv3_large_100": Partition(
        blocks=(
            ("conv_stem", "bn1", "blocks.0"),
            ("blocks.1.0",),
            ("blocks.1.1",),
            ("blocks.2",),
            ("blocks.3", "blocks.4"),
            ("blocks.5",),
            ("blocks.6", "conv_head", "norm_head", "act2"),
        ),
        left_out=_POOLED,
        strided="blocks.5.0",
    ),
    # What the paper compares with: the baseline of persons, and that of faces.
    "agw": dataclasses.replace(_RESNET50, layout=non_local, network="resnet50"),
    "lightcnn29": _LIGHTCNN29,
    "lightcnn29_v2": dataclasses.replace(_LIGHTCNN29, source=lightcnn29_v2),
    # Beyond the paper.
    "mobilenetv4_conv_small": Partition(
        blocks=(
            ("conv_stem", "bn1"),
            ("blocks.0.0",),
            ("blocks.0.1",),
            ("blocks.1",),
            ("blocks.2",),
            ("blocks.3",),
            ("blocks.4", "conv_head", "norm_head", "act2"),
        ),
        left_out=_POOLED,
        strided="blocks.3.0",
    ),
    "mobilenetv4_conv_medium": Partition(
        blocks=(
            ("conv_stem", "bn1"),
            ("blocks.0",),
            ("blocks.1.0",),
            ("blocks.1.1",),
            ("blocks.2",),
            ("blocks.3",),
            ("blocks.4", "conv_head", "norm_head", "act2"),
        ),
        left_out=_POOLED,
        strided="blocks.3.0",
    ),
    "efficientnet_lite0": Partition(
        blocks=(
            ("conv_stem", "bn1", "blocks.0"),
            ("blocks.1.0",),
            ("blocks.1.1",),
            ("blocks.2",),
            ("blocks.3", "blocks.4"),
            ("blocks.5",),
            ("blocks.6", "conv_head", "bn2"),
        ),
        left_out=("global_pool", "classifier"),
        strided="blocks.5.0",
    ),
    "repvit_m0_9": Partition(
        blocks=(
            ("stem",),
            ("stages.0.downsample", "stages.0.blocks.0"),
            ("stages.0.blocks.1",),
            ("stages.1",),
            ("stages.2",),
            ("stages.3.downsample", "stages.3.blocks.0"),
            ("stages.3.blocks.1",),
        ),
        left_out=("head_drop", "head"),
        strided="stages.3.downsample",
    ),
}
BUILT_IN = frozenset(BACKBONES)


def find_partition(name: str) -> Partition:
    """The partition of a known backbone.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in BACKBONES:
        raise InputError(
            f"unknown model {name!r}; known are: {', '.join(sorted(BACKBONES))}; another network of timm or "
            "torchvision is cut by toplight_ext.models.BACKBONES[name] = Partition(...)"
        )
    return BACKBONES[name]
