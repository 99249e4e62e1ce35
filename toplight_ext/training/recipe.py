"""Recipes: a training run as data, in frozen dataclasses.

A table that is absent leaves its stage out: `pretrain`, `top` and `soup` are optional, so a run may also start from
public weights (`model.pretrained`). Where recipes come from stands in `recipe_files`.

The paper publishes the order of the stages; epochs, rates, ranges and loss weights are our choice.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path

from ..data import Augmentation, Colour, Sample, Texture, load_dataset
from ..data.pipeline import IMAGENET_MEAN, IMAGENET_STD
from ..errors import InputError
from ..evaluation import Protocol, parse_protocol
from ..inference import Preprocessing
from ..text import plain
from .limits import check_limits

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Dataset:
    """One split of a data set: the arguments of `data.load_dataset`.

    cache: folder in which training keeps the images decoded once, at the recipe's size (`data.cached_images`);
        crops are then cut from images of that size. Not of `test` and `dev`.
    """

    name: str
    root: str
    split: str | None = None
    cache: str | None = None

    def samples(self, draw: bool = False) -> list[Sample]:
        """Its images; `draw` and errors as `data.load_dataset` has them."""
        return load_dataset(self.name, self.root, self.split, draw)


@dataclass(frozen=True)
class Model:
    """The arguments of `create_model` that a recipe chooses."""

    backbone: str = "mobilenetv3_large_100"
    neck: str = "fdr"
    slices: tuple[int, int] = (6, 3)
    groups: int | None = None
    embed: bool = True
    input_layer: str = "colour"
    last_stride: int = 2
    pretrained: bool | str = False
    checkpointing: bool = False


@dataclass(frozen=True)
class Optimiser:
    """AdamW or SGD with Nesterov momentum; rates are a function of the step alone.

    backbone_factor: of the learning rate, for the seven blocks; neck and heads have the whole rate.
    schedule: what follows the linear warm-up: a cosine to zero, or a division by 10 at each of `milestones`, in
        epochs.
    clip_norm: largest 2-norm of the gradient of all parameters together.
    ema_decay: of an exponential moving average of the weights, which the stage then evaluates and leaves behind.
    """

    name: typing.Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    backbone_factor: float = 1.0
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup_epochs: float = 1.0
    schedule: typing.Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = ()
    clip_norm: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        if (self.schedule == "step") != bool(self.milestones):
            raise InputError(
                f"optimiser: schedule {self.schedule!r} with milestones {list(self.milestones)}: the schedule 'step' "
                "needs milestones, and only it has them"
            )
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"optimiser.ema_decay = {self.ema_decay}: expected a number from 0 to below 1")


@dataclass(frozen=True)
class Pretrain:
    """Stage 0: one path, identity loss."""

    epochs: int = 10
    batch_size: int = 64
    label_smoothing: float = 0.1
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()

    def __post_init__(self) -> None:
        if self.batch_size < 2:  # of one vector, BatchNorm has no variance; the other stages see two images at least
            raise InputError(f"pretrain.batch_size = {self.batch_size}: BatchNorm needs batches of at least 2 images")


@dataclass(frozen=True)
class Top:
    """Stage 1: task-oriented pretraining; path 1 sees the colour, path 2 the texture augmentations.

    path1, path2: the augmentations of each; a table that is given says all of them.
    kl_weight: of the agreement of the two paths in L_idc.
    domain_weight: of L_fd, beside L_idc.
    reversal: lambda of the gradient reversal in L_fd.
    share_geometry: whether both paths see the same crop, deformation and flip of an image.
    """

    epochs: int = 10
    batch_size: int = 64
    label_smoothing: float = 0.1
    kl_weight: float = 1.0
    domain_weight: float = 0.1
    reversal: float = 1.0
    path1: Augmentation = Augmentation(colour=Colour())
    path2: Augmentation = Augmentation(texture=Texture())
    share_geometry: bool = False
    optimiser: Optimiser = Optimiser()


@dataclass(frozen=True)
class Soup:
    """Stage 2: the paths are averaged but for their first `keep` blocks, the stems; BatchNorm statistics are
    taken anew over `statistics_batches` batches of stage 1."""

    keep: int = 1
    statistics_batches: int = 30


@dataclass(frozen=True)
class VI:
    """Stage 3: visible-infrared training; a loss whose weight is 0 is not computed.

    mirrored_identities: train on `data.with_mirrored_identities`, twice as many.
    gray: visible images lose their colour, in training and wherever the weights are used.
    margin: of both triplet losses.
    """

    epochs: int = 20
    identities: int = 16
    images_per_identity: int = 4
    mirrored_identities: bool = False
    gray: bool = False
    identity_weight: float = 1.0
    label_smoothing: float = 0.1
    triplet_weight: float = 1.0
    margin: float = 0.3
    weighted_triplet_weight: float = 0.0
    infonce_weight: float = 0.0
    temperature: float = 0.1
    circle_weight: float = 0.0
    circle_margin: float = 0.25
    circle_scale: float = 64.0
    centre_weight: float = 0.0
    hetero_centre_weight: float = 0.0
    hetero_centre_triplet_weight: float = 0.0
    visible: Augmentation = Augmentation()
    infrared: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()

    def __post_init__(self) -> None:
        if not any(getattr(self, field.name) for field in dataclasses.fields(self) if field.name.endswith("_weight")):
            raise InputError("recipe: the stage vi has no loss: give at least one of its weights")


@dataclass(frozen=True)
class Evaluation:
    """How the stages of a run are compared; `toplight evaluate` has the same protocols.

    protocol, shots, permutations: of `test`, and of `dev` where that is a split of the same data set; another data
        set has its own default, which is infrared->visible for csv.
    shots, permutations: of SYSU-MM01, gallery images per identity and camera, and the file rand_perm_cam.mat.
    same_camera_filter, cmc: of csv, folder and synthetic, as `evaluation.Generic` says.
    flip: features are averaged with those of the mirror image.
    every_epochs: how often the visible-infrared stage is looked at on the recipe's `dev` split while it trains; 0
        is never. The figures are recorded and choose nothing.
    """

    protocol: str = "infrared->visible"
    metric: typing.Literal["cosine", "euclidean"] = "cosine"
    shots: int = 1
    permutations: str | None = None
    same_camera_filter: bool = False
    cmc: typing.Literal["images", "identities"] = "images"
    flip: bool = False
    batch_size: int = 128
    every_epochs: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """When a running stage writes its state: every so many steps (None: at the end of every epoch), and after so
    many minutes without."""

    steps: int | None = None
    minutes: float = 10.0


@dataclass(frozen=True)
class Recipe:
    """A whole run. `data` is the visible-infrared set trained on, `test` the one evaluated on, `dev` the one looked
    at on the way, and `pretraining_data` the visible images of stages 0 and 1.

    weights: file that a stage of another run left, whose blocks the first stage starts from, in place of
        `model.pretrained`: one TOP for several visible-infrared trainings.
    size, mean, std: of the images that the network is fed; mean and std of red, green and blue in 0..1.
    device: auto, cpu or cuda.
    precision: of the arithmetic; the weights are float32. float16 scales the loss.
    compile: torch.compile for the training step.
    cuda_graph: record the step once on the GPU and replay it.
    deterministic: only algorithms that give the same bits again, on a GPU too.
    sync_batchnorm: with several processes, BatchNorm's statistics are those of the whole batch.
    threads: of the image pipeline.
    tensorboard: write the metrics for TensorBoard as well.
    """

    name: str
    data: Dataset
    test: Dataset
    size: tuple[int, int] = (288, 144)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    seed: int = 0
    device: str = "auto"
    precision: typing.Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    cuda_graph: bool = False
    deterministic: bool = False
    sync_batchnorm: bool = True
    threads: int = 2
    tensorboard: bool = False
    weights: str | None = None
    model: Model = Model()
    pretraining_data: Dataset | None = None
    dev: Dataset | None = None
    pretrain: Pretrain | None = None
    top: Top | None = None
    soup: Soup | None = None
    vi: VI | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = Checkpoint()

    def __post_init__(self) -> None:
        if not self.name.strip(". ") or "/" in self.name or len(self.name) > _LONGEST_NAME:
            expected = f"up to {_LONGEST_NAME} characters that can name a folder"
            raise InputError(f"name = {plain(self.name)!r}: expected {expected}")
        check_limits(self)
        self.preprocessing("vi").check("size, mean and std")
        if (self.pretrain or self.top) and self.pretraining_data is None:
            raise InputError("recipe: the stages pretrain and top need the table [pretraining_data]")
        if self.soup and not self.top:
            raise InputError("recipe: the stage soup averages the two paths of top: add [top] or leave out [soup]")
        if not (self.pretrain or self.top or self.vi):
            raise InputError("recipe: no stage: give at least one of [pretrain], [top] and [vi]")
        if self.evaluation.every_epochs and (self.dev is None or self.dev == self.test):
            raise InputError("recipe: evaluation.every_epochs needs a table [dev] that is not the one of [test]")
        for table in ("test", "dev"):
            if getattr(self, table) is not None and getattr(self, table).cache is not None:
                raise InputError(f"recipe: {table}.cache has no use, only training keeps decoded images: leave it out")
        if self.cuda_graph and self.precision == "float16":
            raise InputError("recipe: cuda_graph cannot record the changing loss scale of float16: use bfloat16")

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for name in ("pretrain", "top", "soup", "vi") if getattr(self, name) is not None)

    @property
    def first_weights(self) -> Path | None:
        """What the first stage starts from."""
        return Path(self.weights) if self.weights else None

    def protocol(self, dataset: Dataset) -> Protocol:
        """How networks are compared on `test` or `dev`.

        Raises:
            InputError: the words of `evaluation` name no protocol, or the data set has none.
        """
        if dataset.name != self.test.name:
            return parse_protocol(dataset.name)
        words = self.evaluation
        rules = {"same_camera_filter": words.same_camera_filter, "cmc": words.cmc}
        return parse_protocol(dataset.name, words.protocol, words.shots, words.permutations, **rules)

    def preprocessing(self, stage: str) -> Preprocessing:
        """What the networks of a stage are fed; stored with the weights."""
        gray = stage == "vi" and self.vi is not None and self.vi.gray
        return Preprocessing(self.size, self.mean, self.std, gray)
