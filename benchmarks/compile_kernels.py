"""Compiles every Triton kernel as it would be launched, on a machine without a GPU, and reads the machine code.

The ops are called on meta tensors with launching replaced by recording; what is recorded is compiled, pointers and
sizes declared divisible by 16 where the real launch would find them so. A kernel fails
- if it touches spilled registers,
- if, in a case whose planes or, channels last, channels are runs of whole 16 bytes, it reads or writes a map by less
  than 16 bytes at a time. Kernels load and store maps in kernels/plane.py, and there nothing else, so an access is one
  to a map exactly if the line table says that it comes from this file.

    python benchmarks/compile_kernels.py [--architectures 80 90]
"""

import argparse
import concurrent.futures
import importlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

SLICES = (6, 3)
EPS = 1e-5
TYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


@dataclass(frozen=True)
class Case:
    """Shape of x, layouts and types by name, whether its runs are whole 16 bytes, and the architectures."""

    shape: tuple[int, int, int, int]
    layouts: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    aligned: bool
    architectures: tuple[int, ...]


CASES = {  # by why they are there
    "TOPLight": Case((64, 1280, 9, 5), ("NCHW",), (torch.float32,), False, (80, 90)),
    "TOPLight half": Case((64, 1280, 9, 5), ("NCHW",), (torch.bfloat16,), False, (90,)),
    "TOPLight last": Case((64, 1280, 9, 5), ("NHWC",), (torch.float32, torch.bfloat16), True, (90,)),
    "aligned": Case((64, 1024, 24, 8), ("NCHW", "NHWC"), (torch.float32, torch.bfloat16), True, (80, 90)),
    "large": Case((16, 256, 96, 32), ("NCHW", "NHWC"), (torch.float32, torch.bfloat16), True, (90,)),
    "Blackwell": Case((64, 1024, 24, 8), ("NCHW",), (torch.bfloat16,), True, (100,)),
    "odd": Case((2, 36, 13, 7), ("NCHW", "NHWC"), (torch.float16,), False, (90,)),
    "doubles": Case((64, 1280, 9, 5), ("NCHW", "NHWC"), (torch.float64,), False, (90,)),
}


def kernels(name: str) -> types.ModuleType:
    """A Triton module of this checkout, installed or not."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    return importlib.import_module(f"kernels.{name}")


class Launch:
    """A kernel with the signature, the constants and the alignment that one launch gave it."""

    def __init__(self, kernel: JITFunction, args: tuple, kwargs: dict) -> None:
        self.kernel = kernel
        values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        self.options = {name: value for name, value in values.items() if name not in kernel.arg_names}
        self.signature, self.constants, self.attributes = {}, {}, {}
        for index, parameter in enumerate(kernel.params):
            value = values[parameter.name]
            constant = parameter.is_constexpr
            self.signature[parameter.name] = "constexpr" if constant else self._describe(value, (index,))
            if constant:
                self.constants[(index,)] = value
        backward = values.get("BACKWARD", False)
        self.name = f"{kernel.__module__.split('.')[-1]}.{kernel.__name__}" + (" backward" if backward else "")

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

    def compile(self, architecture: int) -> bytes:
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        target = GPUTarget("cuda", architecture, 32)
        return triton.compile(source, target=target, options=self.options).asm["cubin"]


def record(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> list[Launch]:
    """The launches of every op, forward and backward, on maps of this shape."""
    images, channels, height, width = shape
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    last = layout == "NHWC"

    def meta(*size: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    x = meta(*shape).to(memory_format=LAYOUTS[layout])
    y = torch.cat((x, x), dim=1)
    groups = channels // 4
    attend = (*(meta(1, 2, 1, 1, dtype=accumulate) for _ in range(6)), groups, EPS, True)
    rows, columns = meta(images, channels // 2, SLICES[0]), meta(images, channels // 2, SLICES[1])
    vectors, means = (rows, columns), meta(images, channels)
    calls = (
        ("slice_pool", "", (x, *SLICES)),
        ("slice_pool", "_backward", (*vectors, height, width, last)),
        ("slice_pool_upsample", "", (x, *SLICES)),
        ("slice_pool_upsample", "_backward", (y, *SLICES)),
        ("shuffle_attention", "", (x, *attend)),
        ("shuffle_attention", "_backward", (x, x, *attend)),
        ("upsample_shuffle_attention", "", (*vectors, height, width, *attend, last)),
        ("upsample_shuffle_attention", "_backward", (x, *vectors, *attend)),
        ("upsample_shuffle_attention_pooled", "", (*vectors, height, width, *attend)),
        ("upsample_shuffle_attention_pooled", "_backward", (means, *vectors, height, width, *attend)),
        ("gradient_reversal", "_backward", (x, meta(1, dtype=accumulate))),
    )
    launches = []

    def run(kernel, *args, grid, warmup, **kwargs):
        launches.append(Launch(kernel, args, kwargs))

    with mock.patch.object(JITFunction, "run", run):
        for op, direction, arguments in calls:
            getattr(kernels(op), op + direction)(*arguments)
    return launches


def run_tool(tool: str, *arguments: str) -> str:
    """Standard output of one of the tools beside Triton's assembler, which call one another."""
    path = getattr(triton.knobs.nvidia, tool).path
    environment = os.environ | {"PATH": f"{Path(path).parent}:{os.environ['PATH']}"}
    return subprocess.run([path, *arguments], env=environment, check=True, capture_output=True, text=True).stdout


def accesses(sass: str) -> Iterator[tuple[str, bool, int]]:
    """Every global memory instruction: LDG or STG, whether it is one to a map, bytes per thread."""
    source = ""
    for line in sass.splitlines():
        if place := re.search(r'//## File "([^"]*)"', line):
            source = Path(place[1]).name
        elif access := re.search(r"\b(LDG|STG)\.E([.\w]*)", line):
            bits = re.search(r"\.[US]?(8|16|64|128)\b", access[2])
            yield access[1], source == "plane.py", int(bits[1]) // 8 if bits else 4


def check(cubin: bytes, aligned: bool) -> tuple[str, list[str]]:
    """What is to be said of a compiled kernel, and what is wrong with it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = run_tool("nvdisasm", "--print-line-info", "--no-dataflow", file.name)
        registers = int(re.search(r"REG:(\d+)", run_tool("cuobjdump", "--dump-resource-usage", file.name))[1])
    spills = len(re.findall(r"\b(?:LDL|STL)\b", sass))
    found = list(accesses(sass))
    wrong = [f"{spills} SPILLS"] if spills else []
    parts = [f"{registers:4} registers"]
    for name, instruction in (("loads", "LDG"), ("stores", "STG")):
        widths = [width for kind, to_map, width in found if to_map and kind == instruction]
        parts.append(f"{len(widths):3} map {name} of {min(widths, default=0):2} bytes")
        if aligned and any(width != 16 for width in widths):
            wrong.append(f"NARROW {name.upper()}")
    parts.append(f"{sum(not to_map for _, to_map, _ in found):3} other")
    return ", ".join(parts), wrong


def launches(wanted: list[int]) -> Iterator[tuple[str, Launch, int, bool]]:
    """Every kernel once per architecture: label, launch, architecture, whether it is to be 16 bytes wide."""
    seen = set()
    for name, case in CASES.items():
        for layout, dtype in itertools.product(case.layouts, case.dtypes):
            for launch, architecture in itertools.product(record(case.shape, dtype, layout), case.architectures):
                if architecture in wanted and (architecture, launch.key) not in seen:
                    seen.add((architecture, launch.key))
                    case_name = f"sm_{architecture:<4}{name:14}{layout:5}{TYPE_NAMES[dtype]:5}"
                    label = f"{case_name}{launch.name:46}{launch.options.get('num_warps', 4):3} warps,"
                    yield label, launch, architecture, case.aligned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90, 100])
    wanted = parser.parse_args().architectures
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # reads one kernel while the next one compiles

        def report(label: str, cubin: bytes, aligned: bool) -> bool:
            line, wrong = check(cubin, aligned)
            print(label + line, *wrong, flush=True)
            return bool(wrong)

        checks = [
            pool.submit(report, label, launch.compile(architecture), aligned)
            for label, launch, architecture, aligned in launches(wanted)
        ]
    failed = sum(result.result() for result in checks)
    print(f"{len(checks)} kernels compiled, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
