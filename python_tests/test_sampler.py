"""What a batch is made of: a function of the seed and the step."""

from pathlib import Path

import numpy as np
import pytest

from toplight_ext.data import (
    CrossModalitySampler,
    Modality,
    Sample,
    SequentialSampler,
    ShuffledSampler,
    identity_labels,
    with_mirrored_identities,
)
from toplight_ext.data.randomness import generator
from toplight_ext.errors import InputError


def make_samples(visible: dict, infrared: dict) -> list[Sample]:
    """Samples with the given number of images per identity, the modalities interleaved."""
    samples = [Sample(Path(f"v{i}{k}"), i, Modality.VISIBLE, 1) for i, n in visible.items() for k in range(n)]
    samples += [Sample(Path(f"r{i}{k}"), i, Modality.INFRARED, 2) for i, n in infrared.items() for k in range(n)]
    return samples[::2] + samples[1::2]


def identities(samples, indices):
    return [samples[i].identity for i in indices]


def test_cross_modality_batches_are_aligned_complete_and_without_repetition():
    samples = make_samples({i: 5 for i in range(10)}, {i: 4 for i in range(10)})
    sampler = CrossModalitySampler(samples, identities=4, images_per_identity=3, seed=1)
    assert sampler.steps_per_epoch == 5  # 50 visible images, 12 per batch
    assert (sampler.unpaired, sampler.repeating) == ([], 0)
    seen = []
    for step in range(2):  # 10 identities: one round is two batches of four
        visible, infrared = sampler.batch(step)
        assert len(set(visible)) == len(set(infrared)) == 12
        assert {samples[i].modality for i in visible} == {Modality.VISIBLE}
        assert {samples[i].modality for i in infrared} == {Modality.INFRARED}
        assert identities(samples, visible) == identities(samples, infrared)
        seen += sorted(set(identities(samples, visible)))
    assert len(seen) == len(set(seen)) == 8


def test_every_image_is_drawn_and_order_changes_from_round_to_round():
    samples = make_samples({i: 3 for i in range(6)}, {i: 3 for i in range(6)})
    sampler = CrossModalitySampler(samples, identities=3, images_per_identity=2, seed=0)
    batches = [sampler.batch(step) for step in range(40)]
    assert {i for batch in batches for part in batch for i in part} == set(range(36))
    rounds = [identities(samples, batches[2 * k][0]) + identities(samples, batches[2 * k + 1][0]) for k in range(20)]
    assert all(sorted(r) == sorted(rounds[0]) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 10


def test_identity_with_few_images_repeats_each_of_them_evenly():
    samples = make_samples({1: 2, 2: 9}, {1: 9, 2: 9})
    sampler = CrossModalitySampler(samples, identities=2, images_per_identity=5, seed=0)
    assert sampler.repeating == 1
    assert "an epoch is 2 steps of 2 identities x 5 images per modality; 1 of 2 identities" in sampler.describe()
    visible, _ = sampler.batch(0)
    counts = np.bincount([i for i in visible if samples[i].identity == 1])
    assert sorted(counts[counts > 0]) == [2, 3]


def test_unpaired_identities_are_named_and_never_drawn():
    samples = make_samples({"a": 2, "b": 2, "c": 2}, {"b": 2, "c": 2, "d": 2})
    sampler = CrossModalitySampler(samples, identities=2, images_per_identity=2, seed=0)
    assert sampler.unpaired == ["a", "d"]
    assert sampler.describe().endswith("per modality; 2 identities lack a modality and are never drawn")
    assert {i for step in range(20) for i in identities(samples, sampler.batch(step)[0])} == {"b", "c"}
    with pytest.raises(InputError, match=r"3 identities x 2 images.*2 identities have both.*2 have one modality"):
        CrossModalitySampler(samples, identities=3, images_per_identity=2, seed=0)


def test_batches_depend_on_seed_and_step_alone():
    samples = make_samples({i: 4 for i in range(9)}, {i: 4 for i in range(9)})
    for make in (
        lambda seed: CrossModalitySampler(samples, 4, 2, seed),
        lambda seed: ShuffledSampler(samples, 7, seed),
    ):
        forward = [np.concatenate([make(3).batch(step)], axis=None) for step in range(12)]
        sampler = make(3)
        for step in reversed(range(12)):
            assert np.array_equal(np.concatenate([sampler.batch(step)], axis=None), forward[step])
        assert not np.array_equal(np.concatenate([make(4).batch(0)], axis=None), forward[0])


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_divide_a_batch_among_themselves(world):
    """Whole identities, every one of them once, in order, none with two more than another."""
    samples = make_samples({i: 4 for i in range(30)}, {i: 4 for i in range(30)})
    pairs, single = CrossModalitySampler(samples, 7, 3, seed=0), ShuffledSampler(samples, 7, seed=0)
    visible, _ = pairs.batch(5)
    parts = [visible[pairs.rows(rank, world)] for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), visible)
    assert all(len(part) == 3 * len(set(identities(samples, part))) for part in parts)
    images = [single.batch(0)[single.rows(rank, world)] for rank in range(world)]
    for lengths in ([len(part) // 3 for part in parts], [len(part) for part in images]):
        assert sum(lengths) == 7 and max(lengths) - min(lengths) <= 1
    with pytest.raises(InputError, match="7 identities cannot be divided among 8 processes"):
        pairs.rows(0, 8)
    with pytest.raises(InputError, match="7 images cannot be divided among 8"):
        single.rows(0, 8)


def test_shuffled_epochs_are_permutations():
    samples = make_samples({i: 1 for i in range(23)}, {})
    sampler = ShuffledSampler(samples, batch_size=5, seed=0)
    assert sampler.steps_per_epoch == 4
    assert sampler.describe() == "an epoch is 4 steps of 5 images; 3 others are left out"
    epochs = [np.concatenate([sampler.batch(4 * e + s) for s in range(4)]) for e in range(3)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    with pytest.raises(InputError, match="batch of 24 cannot be drawn from 23"):
        ShuffledSampler(samples, batch_size=24, seed=0)


def test_sequential_gives_every_sample_once_in_order():
    samples = make_samples({i: 1 for i in range(11)}, {})
    sampler = SequentialSampler(samples, batch_size=4)
    assert np.concatenate([sampler.batch(s) for s in range(sampler.steps_per_epoch)]).tolist() == list(range(11))


def test_labels_are_contiguous_and_in_identity_order():
    labels, names = identity_labels(make_samples({7: 2, 3: 1}, {5: 1}))
    assert names == [3, 5, 7]
    assert sorted(labels) == [0, 1, 2, 2] and labels.dtype == np.int64


def test_generator_rows_do_not_depend_on_how_many_are_drawn():
    few, many = (generator(5, "colour", 17, 0).random((n, 7)) for n in (3, 64))
    assert np.array_equal(few, many[:3])
    others = [generator(6, "colour", 17, 0), generator(5, "texture", 17, 0), generator(5, "colour", 18, 0)]
    assert all(not np.array_equal(few, other.random((3, 7))) for other in others)


def test_every_identity_is_mirrored_as_another_one():
    samples = make_samples({"a": 2, "b": 1}, {"a": 1, "b": 1})
    doubled = with_mirrored_identities(samples)
    assert [(s.path, s.modality) for s in doubled] == [(s.path, s.modality) for s in samples + samples]
    assert [s.mirrored for s in doubled] == [False] * 5 + [True] * 5
    pairs = {(s.identity, m.identity) for s, m in zip(doubled[:5], doubled[5:], strict=True)}
    assert pairs == {(0, 2), (1, 3)}
