"""What benchmarks/ops.py measures: ops, shapes, and the variants of each."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from compositions import attention_arguments, fdr_on_maps, fdr_on_vectors
from torch import Tensor, nn

from toplight_ext import FDR, ShuffleAttention, ops
from toplight_ext.ops import reference

MAPS = {  # (B, C, H, W)
    "TOPLight": (64, 1280, 9, 5),
    "AGW": (64, 2048, 18, 9),
    "DEEN": (96, 1024, 24, 9),
    "small": (64, 576, 9, 5),
    "wide": (256, 960, 24, 12),
    "large": (16, 256, 96, 32),
}
ONE_IMAGE = {f"{name}-1": (1, *size[1:]) for name, size in MAPS.items()}
SHAPES = MAPS | ONE_IMAGE
SLICES = ((6, 3), (4, 2), (9, 5))
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
GLOBAL_POOLS = ("mean", "adaptive_avg_pool2d")
PLAIN = ("eager", "eager-vectors", *GLOBAL_POOLS)
COMPILED = ("compile", "compile-vectors")
BACKENDS = ("native", "triton")
VARIANTS = (*PLAIN, *COMPILED, *BACKENDS)

Function = Callable[..., Tensor | tuple[Tensor, ...]]  # of a case, its module and its tensors


class Definition(NamedTuple):
    """An op or module: ours, and what it is measured against."""

    ours: Function
    plain: dict[str, Function]  # by the names in PLAIN
    truth: Function  # what runs in float64
    module: Callable[["Case"], nn.Module] = lambda case: nn.Identity()  # its parameters
    tensors: Callable[["Case"], list[Tensor]] = lambda case: [case.draw_map()]
    rereads: bool = False  # whether backward has to read the inputs again
    moves_forward: bool = True  # False for a view
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    made_of: tuple[str, ...] = ()  # ops


class Truth(NamedTuple):
    """What a variant should give, in float64, and the gradients that arrive at its outputs."""

    exact: list[Tensor]  # outputs, then gradients
    arriving: list[Tensor]


@dataclass(frozen=True)
class Key:
    """Which case: what stands in a row of results."""

    op: str
    shape: str
    slices: tuple[int, int]
    layout: str
    dtype: str
    device: str

    @property
    def size(self) -> tuple[int, int, int, int]:
        return SHAPES[self.shape]


class Case:
    """One op on one shape: inputs, parameters, and variants as functions of the inputs."""

    def __init__(self, key: Key):
        self.key, self.size, self.slices, self.device = key, key.size, key.slices, key.device
        self.dtype = getattr(torch, key.dtype)
        self.definition = DEFINITIONS[key.op]
        torch.manual_seed(0)
        # BatchNorm cannot train on the vectors of one image: that case is the network in use.
        self.module = _randomise(self.definition.module(self)).to(self.device).train(self.size[0] > 1)
        self.tensors = self.definition.tensors(self)
        self.parameters = list(self.module.parameters())

    def draw(self, *size: int) -> Tensor:
        return torch.randn(size, device=self.device).to(self.dtype).requires_grad_()

    def draw_map(self) -> Tensor:
        return self.draw(*self.size).detach().to(memory_format=LAYOUTS[self.key.layout]).requires_grad_()

    def draw_vectors(self) -> list[Tensor]:
        batch, channels = self.size[:2]
        return [self.draw(batch, channels // 2, positions) for positions in self.slices]

    def variants(self) -> dict[str, Callable]:
        """Name -> function of the tensors; those of BACKENDS are to be called under use_backend of their name."""
        found = {name: self._bind(function) for name, function in self.definition.plain.items()}
        for plain, compiled in zip(PLAIN, COMPILED, strict=False):
            if plain in found:
                found[compiled] = torch.compile(found[plain], dynamic=False)
        # On a CPU Triton has only its interpreter.
        backends = BACKENDS if self.device == "cuda" else BACKENDS[:1]
        return found | dict.fromkeys(backends, self._bind(self.definition.ours))

    def missing(self, backend: str) -> str | None:
        """Why a backend cannot run the case; None if it can."""
        with ops.use_backend(backend):
            table = ops.backends()
        chosen = (table[op][self.device] for op in self.definition.made_of or (self.key.op,))
        return next((reason for name, reason in chosen if name is None), None)

    def leaves(self, variant: str) -> list[Tensor]:
        """The tensors that a variant has gradients for."""
        return self.tensors if variant in GLOBAL_POOLS else [*self.tensors, *self.parameters]

    def truth(self, variant: str) -> Truth:
        pool = variant in GLOBAL_POOLS
        module = copy.deepcopy(self.module).double()
        tensors = [tensor.detach().double().requires_grad_() for tensor in self.tensors]
        function = self.definition.plain[variant] if pool else self.definition.truth
        outputs = as_tuple(function(self, module, *tensors))
        arriving = [torch.randn_like(y).to(self.dtype) for y in outputs]
        leaves = tensors if pool else [*tensors, *module.parameters()]
        gradients = torch.autograd.grad(outputs, leaves, [grad.double() for grad in arriving])
        return Truth([*(y.detach() for y in outputs), *gradients], arriving)

    def moved(self, arriving: list[Tensor]) -> tuple[int, int]:
        """The fewest bytes that forward, and forward + backward, can read and write.

        Forward reads inputs and parameters and writes the outputs; backward reads what arrives and the parameters,
        where the formula needs them the inputs, and writes the gradients of all. Vectors inside are not counted.
        """
        inputs, parameters, outputs = (
            sum(tensor.nbytes for tensor in tensors) for tensors in (self.tensors, self.parameters, arriving)
        )
        forward = inputs + parameters + outputs if self.definition.moves_forward else 0
        backward = outputs + 2 * parameters + inputs * (2 if self.definition.rereads else 1)
        return forward, forward + backward

    def _bind(self, function: Function) -> Callable:
        """The function of tensors alone. Modules run half types as in training, under autocast."""

        def bound(*tensors):
            return function(self, self.module, *tensors)

        def autocast(*tensors):
            with torch.autocast(self.device, self.dtype):
                return function(self, self.module, *tensors)

        half = self.dtype in (torch.bfloat16, torch.float16)
        return autocast if half and isinstance(self.module, FDR) else bound


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _randomise(module: nn.Module) -> nn.Module:
    """No parameter that hides a wrong gradient, and no ReLU so near zero that rounding decides it."""
    for part in module.modules():
        if isinstance(part, ShuffleAttention):
            for parameter in part.parameters():
                nn.init.normal_(parameter)
        elif isinstance(part, nn.BatchNorm1d):
            nn.init.constant_(part.bias, 4.0)
            nn.init.constant_(part.bias[::2], -4.0)
    return module


def _op(name: str, arguments: Callable[[Case], tuple], options: Callable[[Case], dict] = lambda case: {}, **more):
    """Definition of an op: the reference of that name, and ours, of tensors, `arguments` and the attention's."""

    def plain(case: Case, module: nn.Module, *tensors: Tensor):
        attention = attention_arguments(module, tensors[0].dtype) if isinstance(module, ShuffleAttention) else ()
        return getattr(reference, name)(*tensors, *arguments(case), *attention)

    def ours(case: Case, module: nn.Module, *tensors: Tensor):
        attention = module.op_arguments() if isinstance(module, ShuffleAttention) else ()
        return getattr(ops, name)(*tensors, *arguments(case), *attention, **options(case))

    return Definition(ours, {"eager": plain}, plain, **more)


def _attention(case: Case) -> nn.Module:
    return ShuffleAttention(case.size[1])


_FDR = {
    "module": lambda case: FDR(case.size[1], slices=case.slices),
    "made_of": ("slice_pool", "upsample_shuffle_attention"),
}
_POOLED = ("slice_pool", "upsample_shuffle_attention_pooled")
_OF_VECTORS = {"module": _attention, "tensors": Case.draw_vectors, "rereads": True}

DEFINITIONS = {
    "slice_pool": _op("slice_pool", lambda case: (case.slices,)),
    "slice_pool_upsample": _op("slice_pool_upsample", lambda case: (case.slices,)),
    "shuffle_attention": _op("shuffle_attention", lambda case: (), module=_attention, rereads=True),
    "upsample_shuffle_attention": _op(
        "upsample_shuffle_attention",
        lambda case: (case.size[2:],),
        lambda case: {"channels_last": case.key.layout == "NHWC"},
        **_OF_VECTORS,
    ),
    "upsample_shuffle_attention_pooled": _op(
        "upsample_shuffle_attention_pooled", lambda case: (case.size[2:],), layouts=("vectors",), **_OF_VECTORS
    ),
    "gradient_reversal": _op(
        "gradient_reversal", lambda case: (torch.full((), 0.5, device=case.device),), moves_forward=False
    ),
    "FDR": Definition(
        lambda case, fdr, x: fdr(x),
        {
            "eager": lambda case, fdr, x: fdr_on_maps(fdr, x),
            "eager-vectors": lambda case, fdr, x: fdr_on_vectors(fdr, x),
        },
        lambda case, fdr, x: fdr_on_vectors(fdr, x),
        **_FDR,
    ),
    "FDR.pooled": Definition(
        lambda case, fdr, x: fdr.pooled(x),
        {
            "eager": lambda case, fdr, x: fdr_on_maps(fdr, x).mean((2, 3)),
            "eager-vectors": lambda case, fdr, x: fdr_on_vectors(fdr, x).mean((2, 3)),
        },
        lambda case, fdr, x: fdr_on_vectors(fdr, x).mean((2, 3)),
        **_FDR | {"made_of": _POOLED},
    ),
    "FDR(embed=False).pooled": Definition(
        lambda case, fdr, x: fdr.pooled(x),
        {
            "eager": lambda case, fdr, x: fdr_on_vectors(fdr, x).mean((2, 3)),
            "mean": lambda case, fdr, x: x.mean((2, 3)),
            "adaptive_avg_pool2d": lambda case, fdr, x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
        },
        lambda case, fdr, x: fdr_on_vectors(fdr, x).mean((2, 3)),
        module=lambda case: FDR(case.size[1], slices=case.slices, embed=False),
        made_of=_POOLED,
    ),
}
