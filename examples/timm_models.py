"""FDR in a model of timm, before its global pool: maps (B, 960, 9, 5) of MobileNetV3-Large at 288x144.

Run with timm 1.0.31 and mobilenetv3_large_100, resnet50, efficientnet_lite0, convnext_atto and regnety_002. In your
code, call it after create_model, and after reset_classifier, which would make a new pool:

    model = add_fdr(timm.create_model("mobilenetv3_large_100", pretrained=True, num_classes=395))

On random images:  python examples/timm_models.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toplight_ext import FDR

MODEL = "mobilenetv3_large_100"


def add_fdr(model: nn.Module, groups: int = 60) -> nn.Module:
    """For networks whose maps are (B, C, H, W): the pool belongs to the model or to its head. It has no tensors.

    `groups` of FDR's shuffle attention must divide C / 2: 60 for 960 channels, 64 for the 2048 of ResNet-50.
    """
    owner = model if isinstance(getattr(model, "global_pool", None), nn.Module) else model.head
    owner.global_pool = nn.Sequential(FDR(model.num_features, groups=groups), owner.global_pool)
    return model


def build() -> nn.Module:
    import timm

    return timm.create_model(MODEL, num_classes=4)


def loss(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(torch.randn(4, 3, 288, 144)), torch.tensor([0, 0, 1, 1]))


def embed(model: nn.Module) -> Tensor:
    maps = model.forward_features(torch.randn(2, 3, 288, 144))
    return model.forward_head(maps, pre_logits=True)


if __name__ == "__main__":
    from check import check

    check(build, add_fdr, loss, embed)
