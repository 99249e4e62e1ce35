"""Attacks on the ops, in short: drawn inputs, wrong arguments, forks and threads. The long form is soak/ops.py."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from attacks import op_arguments
from attacks.confined import MOST_MIB, MOST_SECONDS, let_loose
from op_cases import CASES, Sample, every_case, leaves
from soak import op_arguments as drawn_arguments
from soak import ops as drawn

from toplight_ext import ops
from toplight_ext.data import Modality
from toplight_ext.evaluation import Labels, rank_features
from toplight_ext.models import create_model
from toplight_ext.op_cases import run


@every_case
def test_drawn_inputs(case):
    assert drawn.attack(case.name, 25, first=100_000) == []


@pytest.mark.parametrize("attack", op_arguments.ATTACKS, ids=lambda attack: attack.name)
def test_arguments_are_refused_and_empty_maps_answered(attack, tmp_path):
    outcome = let_loose(attack, tmp_path)
    assert outcome.crash is None
    assert outcome.result == repr("answered" if attack.name.startswith("empty") else "refused")
    assert outcome.seconds < MOST_SECONDS and outcome.mib < MOST_MIB


def test_no_drawn_argument_ends_the_process():
    raised, ended = drawn_arguments.attack(200)
    assert ended == []
    assert raised["InputError"] > 20 and raised["RuntimeError"] > 20


SAMPLE = Sample((4, 64, 24, 12))


def everything() -> list[torch.Tensor]:
    """Results and gradients of all ops on maps that are worth several threads."""
    return [
        tensor
        for case in CASES.values()
        for tensor in sum(run(ops, case, SAMPLE, leaves(case.inputs(SAMPLE, torch.float32), "channels_last")), ())
    ]


@pytest.fixture(scope="module")
def expected():
    return everything()


def same(given, expected) -> bool:
    return all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


def test_threads_of_one_process_that_call_ops_at_once(expected):
    """Each with its own number of threads for the loops, as torch keeps it."""

    def work(number: int) -> bool:
        torch.set_num_threads(1 + number % 3)
        return all(same(everything(), expected) for _ in range(3))

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))
    finally:
        torch.set_num_threads(threads)


def test_a_feature_does_not_depend_on_its_batch():
    """Within the bound that extract_features states; untrained weights are the harder case."""
    torch.manual_seed(0)
    model = create_model("mobilenetv3_small_100").to(memory_format=torch.channels_last)
    images = torch.randn(7, 3, 288, 144).contiguous(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # the statistics of this one batch, so that activations keep their size
    with torch.no_grad():
        model(visible=images[:4], infrared=images[3:])
        model.eval()
        together = model.embed(images, Modality.INFRARED)
        for size in (1, 2, 3):
            apart = torch.cat([model.embed(part, Modality.INFRARED) for part in images.split(size)])
            assert ((apart - together).norm(dim=1) < 3e-5 * together.norm(dim=1)).all()


class Computed(torch.utils.data.Dataset):
    """Whether the ops give in a worker what they gave in the process that it was forked from."""

    def __init__(self, expected: list[torch.Tensor]):
        self.expected = expected

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> bool:
        rng = np.random.default_rng(0)
        labels = Labels(np.arange(40) % 9, np.arange(40) % 3)
        features = rng.standard_normal((40, 8))
        ranked = [rank_features(features, features, labels, labels, threads=n) for n in (1, 2)]
        return same(everything(), self.expected) and np.array_equal(*ranked)


def test_workers_forked_after_use(expected):
    """Two at once, after parallel loops of the parent: torch gives each worker one thread."""
    loader = torch.utils.data.DataLoader(
        Computed(expected), num_workers=2, multiprocessing_context="fork", timeout=60, batch_size=None
    )
    assert all(loader)
