"""FDR in AGW, behind layer4: maps (2B, 2048, 18, 9), then AGW's generalised-mean pooling.

https://github.com/mangye16/Cross-Modal-Re-ID-baseline, run at e817a2672c1e. The AGW of
https://github.com/ZYK100/LLCM, and CAJ, are the same network. In their train.py and test.py:

    net = add_fdr(embed_net(n_class, no_local="on", gm_pool="on", arch=args.arch))

On random images:  python examples/agw.py --root Cross-Modal-Re-ID-baseline
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toplight_ext import FDR


def add_fdr(net: nn.Module) -> nn.Module:
    """FDR as the last element of layer4, which the network runs one by one; all other tensors keep their names."""
    net.base_resnet.base.layer4.append(FDR(2048))
    return net


def build() -> nn.Module:
    import model
    from resnet import resnet50

    model.resnet50 = lambda pretrained, **options: resnet50(**options)  # random weights in place of a download

    return model.embed_net(class_num=4, no_local="on", gm_pool="on")


def loss(net: nn.Module) -> Tensor:
    from loss import TripletLoss_WRT

    identities = torch.tensor([0, 0, 1, 1]).repeat(2)  # of the visible images, then of the infrared ones
    features, logits = net(torch.randn(4, 3, 288, 144), torch.randn(4, 3, 288, 144))
    return F.cross_entropy(logits, identities) + TripletLoss_WRT()(features, identities)[0]


def embed(net: nn.Module) -> Tensor:
    images = torch.randn(2, 3, 288, 144)
    return net(images, images, modal=2)[1]


if __name__ == "__main__":
    from check import arguments, check

    arguments()
    check(build, add_fdr, loss, embed)
