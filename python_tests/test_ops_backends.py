"""Which code runs the ops: the choice of the user, and what happens where there is none."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from op_cases import CASES, Recorder

import toplight_ext
from toplight_ext import _library, ops

X = torch.zeros(2, 8, 5, 3)
PARAMETERS = [torch.zeros(1, 2, 1, 1)] * 6


def test_backends_are_named_with_the_reason():
    table = ops.backends()
    assert set(table) == {case.removesuffix("_unshuffled") for case in CASES}
    reason = f"compiled kernel of {_library.cpu.path.name}"
    assert all(devices["cpu"] == ("native", reason) for devices in table.values())
    with ops.use_backend("reference"):
        assert all(backend == "reference" for devices in ops.backends().values() for backend, _ in devices.values())
    assert ops.backends() == table


@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is one library for this processor")
@pytest.mark.parametrize("capability, suffix", (("default", ""), ("avx2", "_avx2"), ("avx512", "_avx512")))
def test_every_instruction_set_has_a_library_with_the_same_answers(capability, suffix):
    """What the rest of the suite does with the best one, in short."""
    if _library.cpu.path.name == f"libtoplight_ops{suffix}.so":
        pytest.skip("the rest of the suite uses this one")
    program = f"""
import pytest
import torch
from toplight_ext import _library
if torch.backends.cpu.get_cpu_capability() != {capability.upper()!r}:
    raise SystemExit(3)
assert _library.cpu.path.name == "libtoplight_ops{suffix}.so", _library.cpu
chosen = "(drawn_shapes or same_bits or saturate) and cpu-native"
raise SystemExit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-k", chosen, "test_ops.py"]))
"""
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "TOPLIGHT_EXAMPLES": "20"}
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folder, capture_output=True, text=True
    )
    if done.returncode == 3:
        pytest.skip(f"this processor has no {capability}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_choices_nest_and_end_with_an_exception():
    def compiled_calls():
        with Recorder() as recorder:
            ops.slice_pool(X, (2, 2))
        return len(recorder.calls)

    with pytest.raises(KeyError), ops.use_backend("reference"):
        assert compiled_calls() == 0
        with ops.use_backend("native"):
            assert compiled_calls() == 1
        assert compiled_calls() == 0
        raise KeyError
    assert compiled_calls() == 1
    with pytest.raises(ValueError, match="reference, native, triton, got 'cuda'"), ops.use_backend("cuda"):
        pass


def test_compiled_code_follows_the_backend():
    torch._dynamo.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append("toplight_ext" in graph.code)
        return graph.forward

    compiled = torch.compile(lambda x: ops.slice_pool_upsample(x, (3, 2)), fullgraph=True, backend=keep)
    x = torch.randn(2, 4, 5, 3)
    for backend in ("native", "reference", "native"):
        with ops.use_backend(backend):
            torch.testing.assert_close(compiled(x), ops.reference.slice_pool_upsample(x, (3, 2)))
    assert graphs == [True, False]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter is on")
def test_a_chosen_backend_is_never_exchanged():
    with ops.use_backend("triton"), pytest.raises(RuntimeError, match="cannot run on cpu"):
        ops.shuffle_attention(X, *PARAMETERS, 2)


def run_python(code: str, folder: Path, **environment) -> str:
    """What a fresh interpreter started in the folder prints, warnings included."""
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_triton_replaces_the_kernels_forward_and_backward(tmp_path):
    pytest.importorskip("triton")
    code = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(toplight_ext.__file__).parents[1])!r}]
import torch
from op_cases import CASES, Sample, leaves
from toplight_ext import ops
sample = Sample((2, 8, 5, 3), slices=(3, 2))
for name in ("slice_pool_upsample", "shuffle_attention"):
    results = []
    for backend in ("native", "triton", "native"):
        with ops.use_backend(backend):
            inputs = leaves(CASES[name].inputs(sample, torch.float32), "channels_last")
            outputs = CASES[name].outputs(ops, inputs, sample)
            results.append([*outputs, *torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs])])
    torch.testing.assert_close(results[1], results[0])
    assert all(torch.equal(a, b) for a, b in zip(results[2], results[0], strict=True))
    assert f"toplight_ext.kernels.{{name}}" in sys.modules
print("same")
"""
    assert "same" in run_python(code, tmp_path, TRITON_INTERPRET="1")


def test_a_gpu_older_than_the_compiled_kernels_gets_others():
    """Pretended: a CUDA library is there, and the GPU that a tensor lies on is too old for it, or is not."""
    program = """
import sys
import torch
from toplight_ext import _library, ops
backends = sys.modules["toplight_ext.ops.backends"]
_library.cuda = _library.Library(_library.cpu.path, None)
_library.oldest_gpu = lambda: (8, 0)
torch.cuda.get_device_capability = lambda index: (9, 0) if index == 0 else (7, 5)
torch.cuda.get_device_name = lambda index: "T4"
backends._NATIVE["cuda"] = backends._NATIVE["cpu"]
backends._select(None)
backends._DEFAULT = backends._active = backends._table(None)
for index, expected in ((0, "native"), (1, backends._triton_reason("slice_pool", "cuda") and "reference" or "triton")):
    backends.use_reference("slice_pool", torch.device("cuda", index))
    backend, reason = ops.backends()["slice_pool"]["cuda"]
    assert backend == expected, (backend, reason)
assert "from sm_80 on, and the T4 is sm_75" in reason, reason
with ops.use_backend("native"):
    assert ops.backends()["slice_pool"]["cuda"] == (None, backends._too_old)
assert ops.backends()["slice_pool"]["cpu"].backend == "native"
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_library_the_reference_runs_after_one_warning(tmp_path):
    package = Path(toplight_ext.__file__).parent
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "kernels", "recipes")
    shutil.copytree(package, tmp_path / "toplight_ext", ignore=ignored)
    (tmp_path / "toplight_ext" / "libtoplight_ops.so").write_bytes(b"not a library")
    code = """
import torch
from toplight_ext import ops
x = torch.randn(2, 4, 5, 3, requires_grad=True)
y = ops.slice_pool_upsample(x, (3, 2))
rows, _ = ops.slice_pool(x, (3, 2))
z = ops.gradient_reversal(rows, 1.0)
torch.testing.assert_close(y, ops.reference.slice_pool_upsample(x, (3, 2)))
(y.sum() + z.sum()).backward()
compiled = torch.compile(lambda x: ops.slice_pool_upsample(x, (3, 2)), fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(x), y)
print(ops.backends()["slice_pool"]["cpu"])
"""
    printed = run_python(code, tmp_path)
    assert printed.count("in plain PyTorch, which is slower") == 1
    assert "Backend(backend='reference'" in printed and "does not load under torch" in printed
