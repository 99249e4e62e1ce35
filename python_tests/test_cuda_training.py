"""Training on a GPU: the host runs ahead of the device, and every batch is whole when it is used."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from toplight_ext.data import Augmentation, ImagePipeline, Modality, Sample, Stream, draw_synthetic, load_dataset
from toplight_ext.data.pixelwise import finish
from toplight_ext.training.optimisers import build_optimiser, set_learning_rate
from toplight_ext.training.recipe import Optimiser
from toplight_ext.training.update import GraphedUpdate, Update
from toplight_ext.transfers import HostCopy, to_device

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that torch can use")

_LONG = 500_000_000  # cycles: a quarter of a second


@contextlib.contextmanager
def no_waiting():
    """Inside, what makes the host wait for the device is an error; only to wait for an event is allowed."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_one_step_gave_is_read_while_the_device_is_at_the_next():
    # The first of each takes pinned memory, for which the host may wait.
    HostCopy(torch.ones(3, device="cuda")).tolist()
    to_device(torch.arange(3), torch.device("cuda")).tolist()
    with no_waiting():
        record = HostCopy(torch.arange(3.0, device="cuda"))
        torch.cuda._sleep(_LONG)
        next_step = torch.cuda.current_stream().record_event()
        assert record.tolist() == [0, 1, 2]
        assert not next_step.query()
        sent = to_device(torch.arange(3), torch.device("cuda"))
        assert not next_step.query()
    assert sent.tolist() == [0, 1, 2]


def test_pixels_are_finished_without_waiting():
    images = torch.randint(0, 256, (4, 32, 16, 3), dtype=torch.uint8)
    arguments = {
        "matrix": np.tile(np.eye(3, 4, dtype=np.float32), (4, 1, 1)) / 2,
        "boxes": np.array([[0, 0, 0, 0], [3, 2, 9, 8]] * 2),
        "fill": np.full((4, 3), 7, np.float32),
    }
    scales = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    on_gpu = images.cuda()
    finish(on_gpu, arguments, *scales)
    with no_waiting():
        given = finish(on_gpu, arguments, *scales)
    torch.testing.assert_close(given.cpu(), finish(images, arguments, *scales), rtol=1e-4, atol=1e-4)


def test_batches_are_whole_beside_a_busy_stream(tmp_path):
    """Each is used at once, and its memory given back, while the device is far behind."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed (extra: train)")
    draw_synthetic(tmp_path / "drawn", identities=4, dev_identities=1, views=3, size=(32, 16))
    found = load_dataset("synthetic", tmp_path / "drawn", "train")
    samples = [Sample(s.path, s.identity, Modality.VISIBLE, s.camera) for s in found]
    stream = Stream(samples, lambda step: (np.arange(8) + step) % len(samples), (Augmentation(), None))

    def sums(busy: bool) -> list[torch.Tensor]:
        pipeline = ImagePipeline((stream,), size=(32, 16), steps=6, device="cuda")
        taken = []
        with pipeline as batches:
            for batch in batches:
                taken.append(torch.stack([view.double().sum((1, 2, 3)) for view in batch.images[0]]))
                if busy:
                    torch.cuda._sleep(_LONG // 5)
        return [values.cpu() for values in taken]

    assert all(torch.equal(a, b) for a, b in zip(sums(busy=True), sums(busy=False), strict=True))


class TwoGroups(nn.Module):
    """As a dual-path network is to the optimiser: `shared` is its backbone, `head` the rest."""

    def __init__(self):
        super().__init__()
        self.visible, self.infrared = nn.Identity(), nn.Identity()
        self.shared, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, images, labels):
        return {"square": self.head(self.shared(*images)).square().mean()}


@pytest.mark.parametrize("name", ("adamw", "sgd"))
def test_a_replayed_step_takes_the_rate_of_each_group(name):
    """At rate 0 weights stay as they are, to the bit; and the rates are those of the schedule after a checkpoint."""
    device, net = torch.device("cuda"), TwoGroups().cuda()
    settings = Optimiser(name=name, learning_rate=0.1, backbone_factor=0.0)
    optimiser = build_optimiser(net, net, settings, graphed=True)
    optimiser.load_state_dict(build_optimiser(net, net, settings, graphed=True).state_dict())
    step = GraphedUpdate(Update(net, optimiser, "float32", device, None, graphed=True))

    def moved(rate: float) -> tuple[bool, bool]:
        before = net.shared.weight.clone(), net.head.weight.clone()
        set_learning_rate(optimiser, rate)
        step([torch.ones(4, 3, device=device)], [torch.zeros(4, device=device)])
        return not torch.equal(net.shared.weight, before[0]), not torch.equal(net.head.weight, before[1])

    assert [moved(0.1) for _ in range(6)] == [(False, True)] * 6
    assert [moved(0.0) for _ in range(2)] == [(False, False)] * 2
    assert moved(0.1) == (False, True)


def test_a_step_is_taken_without_waiting(tmp_path):
    """From the next batch to the figures of the step before."""
    for package in ("nvidia.dali", "timm", "safetensors"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra: train)")
    from tiny_run import write_tiny_recipe

    from toplight_ext.training import load_recipe
    from toplight_ext.training.loop import Training
    from toplight_ext.training.run import Run
    from toplight_ext.training.stages import build_stage

    recipe = load_recipe(write_tiny_recipe(tmp_path).with_name("vi.toml"), ["vi.epochs=4", "size=[64, 32]"])
    training = Training(Run.create(recipe, tmp_path / "run"), build_stage(recipe, "vi", None), torch.device("cuda"))
    with training.batches() as batches:
        for number, batch in enumerate(batches):
            with no_waiting() if number > 3 else contextlib.nullcontext():  # kernels are chosen and loaded before
                training.take(batch)
                training.log(leave=1)
    assert number > 5
