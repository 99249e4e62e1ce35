"""FDR in DEEN, in place of its average pool: maps (6B, 2048, 24, 9).

https://github.com/ZYK100/LLCM, folder DEEN, run at 886e27caca0f. In its train.py and test.py:

    net = add_fdr(embed_net(n_class, dataset, arch=args.arch))

On random images:  python examples/deen.py --root LLCM/DEEN
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toplight_ext import FDR
from toplight_ext.nn import Pooled


def add_fdr(net: nn.Module) -> nn.Module:
    """FDR and the average pool in one; the pool that it replaces has no tensors. On RegDB, DEEN has 1024 channels."""
    net.avgpool = Pooled(FDR(net.bottleneck.num_features))
    return net


def build() -> nn.Module:
    import model
    from resnet import resnet50

    model.resnet50 = lambda pretrained, **options: resnet50(**options)  # random weights in place of a download

    return model.embed_net(class_num=4, dataset="llcm")


def loss(net: nn.Module) -> Tensor:
    from loss import CPMLoss, OriTripletLoss

    identities = torch.tensor([0, 1]).repeat(2)  # of the visible images, then of the infrared ones
    features, logits, orthogonality = net(torch.randn(2, 3, 384, 144), torch.randn(2, 3, 384, 144))
    plain, first, second = features.chunk(3)  # without enhancement, and with each of the two
    three, two = identities.repeat(3), identities.repeat(2)
    compact = CPMLoss()
    return (
        F.cross_entropy(logits, three)
        + OriTripletLoss(batch_size=4)(features, three)
        + 0.8 * sum(compact(torch.cat((plain, enhanced)), two) for enhanced in (first, second))
        + 0.01 * orthogonality
    )


def embed(net: nn.Module) -> Tensor:
    images = torch.randn(2, 3, 384, 144)
    return net(images, images, modal=2)[1]


if __name__ == "__main__":
    from check import arguments, check

    arguments()
    check(build, add_fdr, loss, embed)
