"""The public networks as their own packages make and run them, for the tests of their blocks."""

import dataclasses

from torch import nn

from toplight_ext.models import BACKBONES

NAMES = tuple(BACKBONES)
# One of each partition: another width is the same graph.
GRAPHS = tuple({id(partition): name for name, partition in BACKBONES.items()}.values())

# Options that leave the widest networks a quarter of their channels.
NARROW = {
    "resnet50": {"channels": (16, 32, 64, 128)},
    "agw": {"channels": (16, 32, 64, 128)},
    "convnext_tiny": {"dims": (24, 48, 96, 192)},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    "vit_base_patch16_224": {"embed_dim": 192, "num_heads": 3},
}

# What timm runs after its pool, in its order; our Block7 runs it on the map.
_MOBILENET_TAIL = ("conv_head", "norm_head", "act2")
_TAILS = {
    "convnext_tiny": ("head.norm",),
    "ghostnet_100": ("conv_head", "act2"),
    "ghostnet_130": ("conv_head", "act2"),
    "mobilenetv3_small_100": _MOBILENET_TAIL,
    "mobilenetv3_large_100": _MOBILENET_TAIL,
    "mobilenetv4_conv_small": _MOBILENET_TAIL,
    "mobilenetv4_conv_medium": _MOBILENET_TAIL,
}


def narrowed(name):
    """The partition of one of the widest networks with fewer channels, for what does not depend on their number."""
    partition = BACKBONES[name]
    return dataclasses.replace(partition, options={**partition.options, **NARROW[name]})


def settle(module):
    """Evaluation mode, with BatchNorm statistics and affine weights that are not those of the start."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias, std=0.1)
    return module.eval()


def plain(name, classes=5):
    partition = BACKBONES[name]
    if callable(partition.source):
        return settle(partition.source())
    if partition.source == "torchvision":
        from torchvision.models import get_model

        return settle(get_model(name, num_classes=classes))
    import timm

    root = timm.create_model(partition.network or name, num_classes=classes, **partition.options)
    if hasattr(root, "patch_embed"):
        root.patch_embed.dynamic_img_pad = True
    return settle(root)


def last_map(name, root, images):
    """The last map (B, C, h, w) of the whole network."""
    if name.startswith(("shufflenet", "lightcnn")):
        caught = []
        last = root.conv5 if name.startswith("shufflenet") else root.fc
        with last.register_forward_hook(lambda module, inputs, output: caught.append(output)):
            root(images)
        return caught[0]
    features = root.forward_features(images)
    if name.startswith("swin"):
        return features.permute(0, 3, 1, 2)
    if name.startswith("vit"):
        height, width = root.patch_embed.dynamic_feat_size(images.shape[2:])
        return features[:, 1:].mT.reshape(len(images), -1, height, width)
    return features


def tail(name, root, x):
    """What the network runs between its pool and its classifier, on any map."""
    for path in _TAILS.get(name, ()):
        x = root.get_submodule(path)(x)
    return x
