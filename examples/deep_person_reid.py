"""FDR in torchreid, in place of global_avgpool: maps (B, 512, 16, 8) of OSNet, (B, 2048, 8, 4) of ResNet-50.

https://github.com/KaiyangZhou/deep-person-reid, run at f8cd150fdf77 with osnet_x1_0 and resnet50. In a script of yours,
before the optimizer is built:

    model = add_fdr(torchreid.models.build_model("osnet_x1_0", num_classes, loss="triplet"), channels=512)

On random images:  python examples/deep_person_reid.py --root deep-person-reid
"""

import torch
from torch import Tensor, nn

from toplight_ext import FDR
from toplight_ext.nn import Pooled


def add_fdr(model: nn.Module, channels: int = 512) -> nn.Module:
    """FDR and the average pool in one; the pool that it replaces has no tensors."""
    model.global_avgpool = Pooled(FDR(channels))
    return model


def build() -> nn.Module:
    import torchreid

    return torchreid.models.build_model("osnet_x1_0", num_classes=4, loss="triplet", pretrained=False, use_gpu=False)


def loss(model: nn.Module) -> Tensor:
    from torchreid.losses import CrossEntropyLoss, TripletLoss

    identities = torch.tensor([0, 0, 1, 1])
    logits, features = model(torch.randn(4, 3, 256, 128))
    return CrossEntropyLoss(num_classes=4, use_gpu=False)(logits, identities) + TripletLoss()(features, identities)


def embed(model: nn.Module) -> Tensor:
    return model(torch.randn(2, 3, 256, 128))


if __name__ == "__main__":
    from check import arguments, check

    arguments()
    check(build, add_fdr, loss, embed)
