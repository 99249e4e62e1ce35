"""FDR in other networks: attached, copied, traced, compiled, exported, distributed, and without its library."""

import copy
import importlib
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from neck_definitions import fdr_on_maps, randomise
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import toplight_ext
from toplight_ext import FDR
from toplight_ext.nn import Pooled

EXAMPLES = Path(__file__).parents[1] / "examples"
# Example -> its code base, a folder in the one that TOPLIGHT_CODE_BASES names.
CODE_BASES = {
    "timm_models": None,
    "agw": "Cross-Modal-Re-ID-baseline",
    "deen": "LLCM/DEEN",
    "fast_reid": "fast-reid",
    "deep_person_reid": "deep-person-reid",
}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not beside the tests")
@pytest.mark.parametrize("name", CODE_BASES)
def test_examples_run(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    if CODE_BASES[name]:
        root = Path(os.environ.get("TOPLIGHT_CODE_BASES", "nowhere"), CODE_BASES[name])
        if not root.is_dir():
            pytest.skip(f"no {CODE_BASES[name]} in the folder that TOPLIGHT_CODE_BASES names")
        command += ["--root", str(root)]
    elif importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("right: FDR sees (")


SHAPE = (3, 3, 11, 8)


class Network(nn.Module):
    """A stranger's network: layers that are run in turn, a global pool, a classifier."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(16, 4)

    def forward(self, x):
        return self.classifier(self.pool(self.layers(x)).flatten(1))


def fdr():
    return FDR(16, slices=(4, 2), groups=4)


def as_a_layer(network):
    network.layers.append(fdr())
    return network


def as_the_pool(network):
    network.pool = Pooled(fdr())
    return network


every_attachment = pytest.mark.parametrize("attach", (as_a_layer, as_the_pool))


def attached(attach, seed=0):
    torch.manual_seed(seed)
    return randomise(attach(Network()))


def images(seed=1, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(network, x):
    names, parameters = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(network(x).square().sum(), parameters), strict=True))


def test_the_attachments_are_one_function_and_leave_the_other_names():
    layer, pool = (attached(attach) for attach in (as_a_layer, as_the_pool))
    names = {name: name.replace("layers.2.", "pool.neck.") for name in layer.state_dict()}
    assert Network().state_dict().keys() < layer.state_dict().keys() and set(names.values()) == set(pool.state_dict())
    pool.load_state_dict({names[name]: tensor for name, tensor in layer.state_dict().items()})
    torch.testing.assert_close(pool(images()), layer(images()))
    for network in (layer, pool):
        network(images()).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(pool.get_parameter(names[name]).grad, parameter.grad, rtol=1e-4, atol=1e-4)


def through_torch_save(network):
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_a_state_dict(network):
    fresh = copy.deepcopy(network)
    randomise(fresh)
    fresh.load_state_dict(network.state_dict())
    return fresh


@pytest.mark.parametrize(
    "twin",
    (copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network)), through_torch_save, through_a_state_dict),
)
@every_attachment
def test_copies_are_the_same_and_their_own(attach, twin):
    network = attached(attach).eval()
    again = twin(network)
    assert torch.equal(again(images()), network(images()))
    addresses = {parameter.data_ptr() for parameter in network.parameters()}
    assert addresses.isdisjoint(parameter.data_ptr() for parameter in again.parameters())


@every_attachment
def test_channels_last_goes_through(attach):
    network = attached(attach)
    expected, wanted = network(images()), gradients(network, images())
    network = network.to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    assert network.layers(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x), expected)
    torch.testing.assert_close(gradients(network, x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@every_attachment
def test_autocast_errs_at_most_twice_as_much_as_fdr_in_plain_pytorch(attach, dtype):
    class Plain(nn.Module):
        def __init__(self, neck):
            super().__init__()
            self.neck = neck

        def forward(self, x):
            y = fdr_on_maps(x, self.neck)
            return y.mean((2, 3), keepdim=True) if attach is as_the_pool else y

    network = attached(attach).eval()
    plain = copy.deepcopy(network)
    if attach is as_the_pool:
        plain.pool = Plain(plain.pool.neck)
    else:
        plain.layers[2] = Plain(plain.layers[2])
    exact = network(images())
    with torch.autocast("cpu", dtype):
        given, eager = network(images()), plain(images())
    assert given.dtype == eager.dtype == dtype
    assert (given - exact).norm() <= 2 * (eager - exact).norm()
    with torch.autocast("cpu", dtype):
        loss = network.train()(images()).float().square().mean()
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in network.parameters())


@every_attachment
def test_compiles_to_one_graph(attach):
    torch._dynamo.reset()
    network = attached(attach)
    compiled = copy.deepcopy(network)
    compiled.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images()), network(images()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients(compiled, images()), gradients(network, images()), rtol=1e-4, atol=1e-4)


@every_attachment
def test_symbolic_trace_keeps_the_ops_as_calls(attach):
    network = attached(attach).eval()
    traced = torch.fx.symbolic_trace(network)
    called = [node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"]
    assert "slice_pool" in called and any(name.startswith("upsample_shuffle_attention") for name in called)
    for twin in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        for shape in (SHAPE, (2, 3, 9, 7)):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x = images(shape=shape).to(memory_format=memory_format)
                assert torch.equal(twin(x), network(x))
    x = images().to(memory_format=torch.channels_last)
    assert torch.fx.symbolic_trace(network.layers)(x).stride() == network.layers(x).stride()
    torch.testing.assert_close(gradients(traced.train(), images()), gradients(network.train(), images()))


@every_attachment
def test_export_serves_other_sizes_from_a_file(attach):
    network = attached(attach).eval()
    batch, height, width = (torch.export.Dim(name, min=4) for name in ("batch", "height", "width"))
    sizes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(network, (images(shape=(5, 3, 11, 8)),), dynamic_shapes=sizes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for shape in ((5, 3, 11, 8), (4, 3, 7, 12)):
        torch.testing.assert_close(loaded(images(shape=shape)), network(images(shape=shape)))


def test_distributed_training_averages_the_gradients_of_two_processes(tmp_path):
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    program = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(toplight_ext.__file__).parents[1])!r}]
from test_dropin import distributed_worker
distributed_worker(int(sys.argv[1]), sys.argv[2])
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", program, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), errors
    alone = [gradients(attached(as_the_pool), images(seed)) for seed in range(2)]
    for rank in range(2):
        given = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert given.keys() == alone[0].keys()
        for name, grad in given.items():
            torch.testing.assert_close(grad, (alone[0][name] + alone[1][name]) / 2)


def distributed_worker(rank, folder):
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    network = DistributedDataParallel(attached(as_the_pool, seed=0 if rank == 0 else 7))  # takes those of rank 0
    network(images(rank)).square().sum().backward()
    torch.save({name: p.grad for name, p in network.module.named_parameters()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
    # Not by the interpreter's end: a thread of gloo that still holds a tensor then aborts the process, one time in
    # hundreds on a busy machine (pytorch/pytorch#179291).
    os._exit(0)


ONLY_TORCH = """
import sys
from importlib.machinery import PathFinder
# What torch needs counts as torch.
names = {"torch", "torchgen", "functorch", "numpy", "sympy", "mpmath", "typing_extensions", "filelock", "jinja2",
         "markupsafe", "networkx", "fsspec", "setuptools", "toplight_ext", *sys.stdlib_module_names}
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return super().find_spec(name, path, target) if name.partition(".")[0] in names else None
sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
for name in ("triton", "timm", "torchvision", "safetensors", "PIL", "scipy"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is there")
"""

TRAIN_AND_COPY = """
import copy, pickle, torch
from toplight_ext import FDR
torch.manual_seed(0)
module = FDR(16, slices=(3, 2), groups=2)
x = torch.randn(3, 16, 6, 5, requires_grad=True)
(module(x).square().sum() + module.pooled(x).square().sum()).backward()
assert x.grad.abs().sum() > 0 and all(p.grad is not None for p in module.parameters())
module.eval()
y = module(x)
for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.fx.symbolic_trace(module)):
    assert torch.equal(twin(x), y)
torch.testing.assert_close(module.pooled(x), y.mean((2, 3)))
"""


def run_python(program, folder):
    """What a fresh interpreter prints, warnings included, the package being that in the folder."""
    command = [sys.executable, "-W", "always", "-c", program]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_fdr_needs_torch_and_numpy_alone():
    package = Path(toplight_ext.__file__).parents[1]
    printed = run_python(f"{ONLY_TORCH}{TRAIN_AND_COPY}\nprint('works')", package)
    assert "works" in printed and "plain PyTorch" not in printed


def test_without_a_library_fdr_runs_in_plain_pytorch_after_one_warning(tmp_path):
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "kernels", "recipes")
    shutil.copytree(Path(toplight_ext.__file__).parent, tmp_path / "toplight_ext", ignore=ignored)
    (tmp_path / "toplight_ext" / "libtoplight_ops.so").write_bytes(b"not a library")
    program = f"""{TRAIN_AND_COPY}
compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(x), y)
program = torch.export.export(module, (x.detach(),))
torch.testing.assert_close(program.module()(x.detach()), y)
import toplight_ext
assert toplight_ext.ops.backends()["slice_pool"]["cpu"].backend == "reference"
"""
    printed = run_python(program, tmp_path)
    assert printed.count("in plain PyTorch, which is slower") == 1
