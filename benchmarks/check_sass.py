"""Reads the machine code of the compiled CUDA kernels: registers, spills, and how wide they touch maps.

    python benchmarks/check_sass.py [build/libtoplight_ops_cuda.so ...]

The rule, for every kernel and architecture:
  - no instruction may touch local memory (LDL, STL): registers were spilled, or an array was indexed at run time;
  - none may be generic (LD, ST, ATOM): the compiler lost sight of whether it is shared or global, and so would we;
  - in a kernel with kVector = true, the one for aligned maps, every access to a map must be 16 bytes wide. Small
    tensors are read by read_small() and written by write_small() of csrc/cuda/memory.cuh, nothing else compiles to
    LDG.CONSTANT and STG.STRONG.GPU (no pointer to a map is __restrict__); all other global accesses are to maps.
    There must be at least one such access of 16 bytes, so that the rule cannot be met by having none.

Needs the tools that lie beside Triton's assembler. Prints a line per kernel; exits 1 if any breaks the rule.
"""

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import triton

DEFAULT = Path(__file__).parents[1] / "toplight_ext" / "libtoplight_ops_cuda.so"
# Instruction -> what it does to a map, and the suffix with which it is of a small tensor instead.
MAP_ACCESSES = {"LDG": ("read", ".CONSTANT"), "LDGSTS": ("copy", None), "STG": ("write", ".STRONG.GPU")}
TYPES = {"f": "fp32", "d": "fp64", "BFloat16": "bf16", "Half": "fp16"}


@dataclass
class Kernel:
    """One kernel for one architecture; widths are bytes per thread."""

    architecture: str
    symbol: str
    registers: int
    stack: int  # bytes
    shared: int  # bytes, without what a launch asks for
    sass: str

    @property
    def vector(self) -> bool:
        """Whether it is instantiated with kVector = true, always the last template argument."""
        return "Lb1EEE" in self.symbol

    @property
    def name(self) -> str:
        """Function, type and flags, out of the mangled symbol: _ZN 8toplight 4cuda <length><name> I <arguments> E."""
        rest, function = self.symbol.removeprefix("_ZN"), ""
        while length := re.match(r"\d+", rest):
            rest = rest[length.end() :]
            function, rest = rest[: int(length.group())], rest[int(length.group()) :]
        kind = next((name for key, name in TYPES.items() if re.match(rf"I(\w+\d)?{key}", rest)), "?")
        return f"{function}<{', '.join([kind, *re.findall(r'Lb([01])E', rest)])}>"

    def accesses(self, instruction: str) -> list[str]:
        """The suffixes of every such memory instruction."""
        return re.findall(rf"\b{instruction}\b([.\w]*) ", self.sass)

    def maps(self) -> Counter[str]:
        """Accesses to maps, as "read 16" and the like."""
        return Counter(
            f"{kind} {width(suffix)}"
            for instruction, (kind, small) in MAP_ACCESSES.items()
            for suffix in self.accesses(instruction)
            if small is None or small not in suffix
        )

    def faults(self) -> list[str]:
        """What breaks the rule."""
        faults = []
        if spilled := len(re.findall(r"\b(?:LDL|STL)\b", self.sass)):
            faults.append(f"{spilled} accesses to local memory")
        if generic := len(re.findall(r"\b(?:LD|ST|ATOM)\b", self.sass)):
            faults.append(f"{generic} generic accesses")
        if self.vector:
            narrow = [access for access in self.maps() if not access.endswith(" 16")]
            faults += [f"{self.maps()[access]} times {access} bytes of a map" for access in narrow]
            if not self.maps():
                faults.append("no access to a map")
        return faults


def width(suffix: str) -> int:
    """Bytes per thread of a memory instruction."""
    bits = re.search(r"\.[US]?(8|16|64|128)\b", suffix)
    return int(bits.group(1)) // 8 if bits else 4


def kernels(library: Path) -> Iterator[Kernel]:
    """Every kernel of a library, for every architecture that it has machine code for."""
    tool = Path(triton.knobs.nvidia.cuobjdump.path)
    environment = os.environ | {"PATH": f"{tool.parent}:{os.environ['PATH']}"}  # it calls nvdisasm
    command = [str(tool), "--dump-resource-usage", "--dump-sass", str(library)]
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    usage = {}
    for part in re.split(r"^arch = ", text, flags=re.MULTILINE)[1:]:
        architecture = part.split("\n", 1)[0].strip()
        for match in re.finditer(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", part):
            usage[architecture, match.group(1)] = tuple(int(value) for value in match.groups()[1:])
        for body in part.split("Function : ")[1:]:
            symbol, sass = body.split("\n", 1)
            yield Kernel(architecture, symbol.strip(), *usage[architecture, symbol.strip()], sass)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("libraries", type=Path, nargs="*", default=[DEFAULT], help="compiled libraries")
    libraries = parser.parse_args().libraries
    count = failed = 0
    for kernel in (kernel for library in libraries for kernel in kernels(library)):
        faults = kernel.faults()
        accesses = ", ".join(f"{times} {access}" for access, times in sorted(kernel.maps().items()))
        used = f"{kernel.registers:3} registers, {kernel.stack:3} stack, {kernel.shared:4} static shared"
        line = f"{kernel.architecture} {kernel.name:37} {used}: {accesses}"
        print(line + "".join(f"; FAULT: {fault}" for fault in faults), flush=True)
        count += 1
        failed += bool(faults)
    print(f"{count} kernels, {failed} break the rule: no local memory, no generic access, maps 16 bytes at a time")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
