"""Compiles every Triton kernel for sm_80 and sm_90 as it would be launched, on a machine without a GPU.

The ops are called on meta tensors with launching replaced by recording; what is recorded is compiled, pointers and
sizes declared divisible by 16 where the real launch would find them so. For every kernel it prints registers,
loads with the widest of them, stores likewise, and instructions that touch spilled registers. Any of those fails,
except for doubles, which are there for gradient checks: for them the assembler spills a few by choice.

    python benchmarks/compile_kernels.py [--architectures 80 90]
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

SHAPES = {  # by why they are there, with the types compiled for them
    "TOPLight": ((64, 1280, 9, 5), (torch.float32, torch.bfloat16, torch.float64)),
    "aligned": ((64, 1024, 24, 8), (torch.float32, torch.bfloat16)),
    "large": ((16, 256, 96, 32), (torch.float32, torch.bfloat16)),
    "odd": ((2, 36, 13, 7), (torch.float16,)),
}
TYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
SLICES = (6, 3)
EPS = 1e-5
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def op(name: str) -> types.ModuleType:
    """The Triton module of an op, of this checkout, installed or not."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    return importlib.import_module(f"kernels.{name}")


class Launch:
    """A kernel with the signature, the constants and the alignment that one launch gave it."""

    def __init__(self, kernel: JITFunction, args: tuple, kwargs: dict) -> None:
        self.kernel = kernel
        self.options = {name: kwargs.pop(name) for name in ("num_warps",) if name in kwargs}
        self.signature, self.constants, self.attributes = {}, {}, {}
        self.values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        for index, parameter in enumerate(kernel.params):
            value = self.values[parameter.name]
            constant = parameter.is_constexpr
            self.signature[parameter.name] = "constexpr" if constant else self._describe(value, (index,))
            if constant:
                self.constants[(index,)] = value

    def _describe(self, value, path: tuple[int, ...]):
        if isinstance(value, tuple):
            return tuple(self._describe(item, (*path, i)) for i, item in enumerate(value))
        if isinstance(value, torch.Tensor):
            self.attributes[path] = [["tt.divisibility", 16]]
            return "*" + TYPE_NAMES[value.dtype]
        if value == 1:
            self.constants[path] = 1
            return "constexpr"
        if value % 16 == 0:
            self.attributes[path] = [["tt.divisibility", 16]]
        return "i32" if abs(value) < 2**31 else "i64"

    @property
    def key(self) -> str:
        """Equal for launches of the same compiled kernel."""
        return f"{self.name} {self.signature} {self.constants} {self.attributes} {self.options}"

    @property
    def name(self) -> str:
        """Module and kernel, with a prime where gradients go the other way."""
        prime = "'" if self.values.get("BACKWARD") else ""
        return f"{self.kernel.__module__.split('.')[-1]}.{self.kernel.__name__}{prime}"

    def compile(self, architecture: int):
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=self.options)


def record(call, *args) -> list[Launch]:
    """The launches that call(*args) makes."""
    launches = []

    def run(kernel, *args, grid, warmup, **kwargs):
        launches.append(Launch(kernel, args, kwargs))

    with mock.patch.object(JITFunction, "run", run):
        call(*args)
    return launches


def cases() -> Iterator[tuple[str, list[Launch]]]:
    """Every op at every shape, layout and type, with its launches."""
    pooling, attention = op("slice_pool_upsample"), op("shuffle_attention")
    for name, (shape, dtypes) in SHAPES.items():
        for format_name, layout in LAYOUTS.items():
            for dtype in dtypes:
                accumulate = torch.float64 if dtype == torch.float64 else torch.float32
                x = torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)
                y = torch.cat((x, x), dim=1)
                attend = [torch.empty(1, 2, 1, 1, dtype=accumulate, device="meta") for _ in range(6)]
                attend += [shape[1] // 4, EPS, True]
                launches = record(pooling.slice_pool_upsample, x, *SLICES)
                launches += record(pooling.slice_pool_upsample_backward, y, *SLICES)
                launches += record(attention.shuffle_attention, x, *attend)
                launches += record(attention.shuffle_attention_backward, x, x, *attend)
                yield f"{name:9}{format_name:5}{TYPE_NAMES[dtype]:5}", launches


def disassemble(cubin: bytes) -> str:
    """Resource usage and SASS, by the tools beside Triton's assembler."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        environment = os.environ | {"PATH": f"{Path(tool).parent}:{os.environ['PATH']}"}
        command = [tool, "--dump-resource-usage", "--dump-sass", file.name]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def widths(sass: str, instruction: str) -> list[int]:
    """Bytes per thread of every such memory instruction."""
    found = []
    for suffix in re.findall(rf"\b{instruction}\.E([.\w]*)", sass):
        bits = re.search(r"\.[US]?(8|16|64|128)\b", suffix)
        found.append(int(bits.group(1)) // 8 if bits else 4)
    return found


def describe(compiled) -> tuple[str, int]:
    """One line on a compiled kernel, and the number of its instructions that touch spilled registers."""
    sass = disassemble(compiled.asm["cubin"])
    registers = int(re.search(r"REG:(\d+)", sass).group(1))
    loads, stores = widths(sass, "LDG"), widths(sass, "STG")
    spills = len(re.findall(r"\b(?:LDL|STL)\b", sass))
    line = f"{registers:4} registers, {len(loads):3} loads of up to {max(loads, default=0):2} bytes"
    return line + f", {len(stores):3} stores of up to {max(stores, default=0):2}, {spills} spilled", spills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90])
    architectures = parser.parse_args().architectures
    spilled, seen = 0, set()
    for name, launches in cases():
        for launch in launches:
            if launch.key in seen:
                continue
            seen.add(launch.key)
            for architecture in architectures:
                line, spills = describe(launch.compile(architecture))
                print(f"sm_{architecture} {name} {launch.name:40} {line}", flush=True)
                spilled += spills > 0 and "fp64" not in name
    print(f"{len(seen) * len(architectures)} kernels compiled, {spilled} with spills that should have none")
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
