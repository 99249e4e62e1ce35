"""FDR in fast-reid, between backbone and heads: maps (B, 2048, 16, 8), then the pooling that the config names.

https://github.com/JDAI-CV/fast-reid, run at c9bc3ceb2f7a with the configs bagtricks_R50 and AGW_R50 of Market1501. In
its tools/train_net.py, in place of DefaultTrainer:

    class Trainer(DefaultTrainer):
        @classmethod
        def build_model(cls, cfg):
            return add_fdr(super().build_model(cfg), cfg.MODEL.BACKBONE.FEAT_DIM)

On random images:  python examples/fast_reid.py --root fast-reid
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from toplight_ext import FDR

CONFIG = "configs/Market1501/AGW_R50.yml"


def add_fdr(model: nn.Module, channels: int = 2048) -> nn.Module:
    """Before the pool of the heads, so that SOLVER.HEADS_LR_FACTOR applies to FDR. All other tensors keep their names,
    except the exponent of GeneralizedMeanPoolingP, which becomes heads.pool_layer.1.p."""
    model.heads.pool_layer = nn.Sequential(FDR(channels), model.heads.pool_layer)
    return model


def build() -> nn.Module:
    import fastreid
    from fastreid.config import get_cfg
    from fastreid.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(str(Path(fastreid.__path__[0]).parent / CONFIG))
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.PRETRAIN, cfg.MODEL.HEADS.NUM_CLASSES = "cpu", False, 4
    return build_model(cfg)


def loss(model: nn.Module) -> Tensor:
    from fastreid.utils.events import EventStorage

    batch = {"images": 255 * torch.rand(4, 3, 256, 128), "targets": torch.tensor([0, 0, 1, 1])}
    with EventStorage():
        return sum(model(batch).values())


def embed(model: nn.Module) -> Tensor:
    return model({"images": 255 * torch.rand(2, 3, 256, 128)})


if __name__ == "__main__":
    from check import arguments, check

    arguments()
    check(build, add_fdr, loss, embed)
