"""What may be in the package: files, and symbols of its libraries. For the installed package and for a wheel."""

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
# Folders of the checkout, and where the package has them.
SOURCES = {
    "toplight_ext": ROOT / "toplight_ext",
    "toplight_ext/kernels": ROOT / "kernels",
    "toplight_ext/recipes": ROOT / "recipes",
}
CPU_LIBRARY = "toplight_ext/libtoplight_ops.so"
LIBRARY = re.compile(r"toplight_ext/(libtoplight_ops(_avx2|_avx512|_cuda)?|_core\.[\w-]+)\.so")
OF_THE_INSTALLER = re.compile(r"toplight_ext-[\w.]+\.dist-info/.*|.*/__pycache__/.*\.pyc|(\.\./)+bin/toplight")
OF_THE_SYSTEM = re.compile(r"(GLIBC|GLIBCXX|CXXABI|GCC)_[\w.]+")  # versions of the C and C++ runtimes' symbols
SHIMS = ("torch/csrc/stable/c/shim.h", "torch/csrc/inductor/aoti_torch/c/shim.h")  # headers of the stable ABI
FOLDER_OF_THE_BUILD = re.compile(rb"(?<![\w.-])/[\w./-]*\b(?:csrc|site-packages)/[\w./-]+")


def file_findings(files: Iterable[str]) -> Iterator[str]:
    """What is wrong with the list of a package's files: one outside it, one too many, one that is missing."""
    files = {name for name in files if not OF_THE_INSTALLER.fullmatch(name)}
    libraries = {name for name in files if LIBRARY.fullmatch(name)}
    expected = set(_sources()) | {CPU_LIBRARY}
    yield from (f"not ours: {name}" for name in sorted(files - libraries - expected))
    yield from (f"missing: {name}" for name in sorted(expected - files))
    if sum("_core." in name for name in libraries) != 1:
        yield f"not one _core: {sorted(libraries)}"


def _sources() -> Iterator[str]:
    for place, folder in SOURCES.items():
        for path in folder.rglob("*"):
            inner = path.relative_to(folder)
            linked = folder / inner.parts[0]  # a checkout has kernels and recipes as links in its package folder
            if path.is_file() and path.suffix not in (".so", ".pyc") and not linked.is_symlink():
                yield f"{place}/{inner.as_posix()}"


def library_findings(path: Path) -> Iterator[str]:
    """What is wrong with a compiled library: a symbol that it may not ask for or export, a folder of the build."""
    entry = f"PyInit_{path.name.partition('.')[0]}"
    for name in dynamic_symbols(path, "--defined-only"):
        if name != entry:
            yield f"{path.name} exports {name}"
    declared = set(re.findall(r"\w+", "".join(_header(name) for name in SHIMS)))
    for symbol in dynamic_symbols(path, "--undefined-only"):
        name, _, version = symbol.partition("@")
        if version:
            allowed = OF_THE_SYSTEM.fullmatch(version)
        elif path.name.startswith("_core."):
            allowed = re.match("_?Py", name)
        else:
            allowed = name.startswith(("aoti_torch_", "torch_")) and name in declared
        if not allowed:
            yield f"{path.name} asks for {symbol}"
    for found in sorted(set(FOLDER_OF_THE_BUILD.findall(path.read_bytes()))):
        yield f"{path.name} holds {found.decode()}"


def _header(name: str) -> str:
    return (Path(torch.__file__).parent / "include" / name).read_text(encoding="utf-8")


def dynamic_symbols(path: Path, which: str) -> list[str]:
    """Names with their versions, without the weak ones that every library has and nobody need define."""
    command = ["nm", "-D", which, "--format=posix", str(path)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in listed.splitlines())
    return [name for name, kind, *_ in rows if not (kind == "w" and "@" not in name)]
