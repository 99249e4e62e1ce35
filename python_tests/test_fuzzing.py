"""The corpus of fuzzing: every parser of ours takes it or raises an InputError, and none is slow."""

import time

import pytest

pytest.importorskip("PIL", reason="Pillow is not installed (extra: train)")
pytest.importorskip("timm", reason="timm is not installed (extra: train)")
pytest.importorskip("nvidia.dali", reason="DALI is not installed (extra: train)")
pytest.importorskip("scipy", reason="SciPy is not installed (extra: test)")

from attacks.fuzzing import TARGETS, attempt, corpus


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name):
    began = time.monotonic()
    inputs = [path.read_bytes() for path in corpus(name)]
    assert inputs, "no corpus of this target is kept"
    taken = [attempt(name, data) for data in (*TARGETS[name].seeds(), *inputs)]
    assert any(taken) and (name == "report" or not all(taken))  # a report refuses no file, it says what it lacks
    assert time.monotonic() - began < 30
