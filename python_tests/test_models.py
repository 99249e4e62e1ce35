"""The seven blocks against timm's own network, the dual path, and what is stored of it."""

import dataclasses
import enum
import errno
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_networks import settle
from torch import nn

from toplight_ext.errors import InputError
from toplight_ext.models import (
    BACKBONES,
    create_model,
    cut,
    duplicate,
    load_blocks,
    load_weights,
    merge,
    read_weights,
    save_weights,
    soup,
    soup_weights,
)
from toplight_ext.models.state import duplicated_blocks

timm = pytest.importorskip("timm", reason="backbones come from timm, which is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="weights files need safetensors")

SMALL, LARGE = "mobilenetv3_small_100", "mobilenetv3_large_100"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def plain(name, **options):
    return settle(timm.create_model(name, **options))


def build(name=SMALL, **options):
    return create_model(name, **{"neck": "gap", **options})


def equal_states(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- the partition; every backbone's own is in test_backbones.py ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda blocks: (*blocks[:6], ("blocks.5", "conv_head", "act2", "blocks.4.0")), "overlap"),
        (lambda blocks: (*blocks[:6], ("blocks.5", "act2")), "2 tensors in no block.*conv_head.weight"),
        (lambda blocks: (*blocks[:6], ("blocks.7", "conv_head", "act2")), "no child blocks.7"),
        (lambda blocks: blocks[:6], "7 blocks, got 6"),
    ],
    ids=["overlap", "uncovered", "absent", "six"],
)
def test_wrong_partition_is_refused(change, message):
    partition = BACKBONES[SMALL]
    wrong = dataclasses.replace(partition, blocks=change(partition.blocks))
    with pytest.raises(InputError, match=message):
        cut(timm.create_model(SMALL), wrong)


# --- the dual path ---


@pytest.mark.parametrize("duplicated", [0, 1, 4, 7])
@torch.no_grad()
def test_with_equal_weights_both_paths_are_the_plain_network(duplicated):
    model = settle(build(num_classes=5, duplicated=0)).double()
    dual = build(num_classes=5, duplicated=duplicated).double().eval()
    dual.load_state_dict(duplicate(model.state_dict(), duplicated))
    images = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    assert len(dual.visible) == len(dual.infrared) == duplicated and len(dual.shared) == 7 - duplicated
    expected = model(images)
    for output in (dual(visible=images), dual(infrared=images)):
        assert torch.equal(output.features, expected.features)
        assert torch.equal(output.logits, expected.logits)
    assert torch.equal(dual.embed(images, "infrared"), expected.embedding)


def test_modalities_take_their_own_path_and_share_one_batch():
    model = settle(build(num_classes=3, duplicated=4))
    for parameter in model.infrared.parameters():
        parameter.data.mul_(1.1)
    visible, infrared = torch.randn(2, 3, 64, 32), torch.randn(3, 3, 64, 32)
    with torch.no_grad():
        output = model(visible, infrared, maps=True)
        maps = model.visible(visible), model.infrared(infrared)
        final = model.shared(torch.cat(maps))
    assert not torch.equal(model.visible(infrared), maps[1])
    torch.testing.assert_close(output.path_maps, maps)
    torch.testing.assert_close(output.final_maps, (final[:2], final[2:]))
    torch.testing.assert_close(output.features, final.mean((2, 3)))
    assert output.logits.shape == (5, 3)

    class Modality(enum.Enum):
        VISIBLE = "visible"
        INFRARED = "infrared"

    with torch.no_grad():
        embeddings = [model.embed(visible, Modality.VISIBLE), model.embed(infrared, Modality.INFRARED)]
    torch.testing.assert_close(torch.cat(embeddings), output.embedding)


def test_shared_batch_norms_see_both_modalities_at_once():
    model = build(num_classes=3, duplicated=1).train()
    seen = []
    norm = next(layer for layer in model.shared.modules() if isinstance(layer, nn.BatchNorm2d))
    norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    output = model(torch.randn(2, 3, 64, 32), 3 + torch.randn(3, 3, 64, 32), maps=True)
    output.logits.sum().backward()
    (batch,) = seen
    assert len(batch) == 5
    torch.testing.assert_close(norm.running_mean, 0.1 * batch.mean((0, 2, 3)))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name for name, _ in model.named_parameters()} - trained == {"head.norm.bias"}


def test_maps_are_given_only_when_asked_for():
    model = build(duplicated=4).eval()
    images = torch.randn(1, 3, 32, 32)
    assert model(images)[2:] == (None, None, None)
    output = model(infrared=images, maps=True)
    assert output.path_maps[0] is None and output.final_maps[0] is None
    assert output.path_maps[1].shape[1] == model.channels[3] and output.final_maps[1].shape[1] == 1024


def test_whole_network_compiles_without_a_break():
    model = create_model(SMALL, num_classes=4, slices=(4, 2), duplicated=1).eval()
    images = torch.randn(2, 3, 64, 32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images, images, maps=True), model(images, images, maps=True))


def test_maps_are_exported_for_any_batch():
    model = build().eval()
    images = torch.randn(3, 3, 64, 32)
    any_batch = {0: torch.export.Dim("batch", min=2)}
    sizes = {"visible": any_batch, "infrared": any_batch, "maps": None}
    exported = torch.export.export(model, (images, images, True), dynamic_shapes=sizes).module()
    other = torch.randn(5, 3, 64, 32)
    torch.testing.assert_close(exported(other, other, True), model(other, other, True))


@pytest.mark.parametrize("neck", ["fdr", "gap"])
def test_whole_network_trains_under_autocast_in_channels_last(neck):
    model = create_model(SMALL, num_classes=4, neck=neck, slices=(4, 2), duplicated=4)
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 64, 32).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, images, maps=True)
    assert output.final_maps[0].is_contiguous(memory_format=torch.channels_last)
    output.logits.float().logsumexp(1).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mobilenet_v9"}, "unknown model 'mobilenet_v9'; known are: agw, convnext_tiny, "),
        ({"name": "lightcnn29", "pretrained": True}, "lightcnn29 has no weights to be loaded by name"),
        ({"neck": "bottle"}, "unknown neck 'bottle'; known are: cbam, context, "),
        ({"duplicated": 8}, "duplicated must be 0 to 7"),
        ({"last_stride": 3}, "last_stride must be 1 or 2"),
        ({"neck": "fdr", "groups": 48}, "C = 1024 and groups G = 48; the nearest valid G is"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create_model(**{"name": SMALL, **options})


def test_wrong_calls_are_named():
    model = build()
    with pytest.raises(InputError, match="got neither"):
        model()
    with pytest.raises(InputError, match="got 'thermal'"):
        model.embed(torch.randn(1, 3, 32, 32), "thermal")


# --- state dicts ---


def test_duplicating_copies_and_merging_equal_paths_takes_it_back():
    single = settle(build(num_classes=3, duplicated=0)).state_dict()
    top = duplicate(single, 4)
    assert len({tensor.data_ptr() for tensor in top.values()}) == len(top)
    assert equal_states(duplicate(duplicate(single, 1), 4), top)
    assert equal_states(merge(top, keep=0), single)
    with pytest.raises(InputError, match="from 4 duplicated blocks to 1"):
        duplicate(top, 1)


def test_soup_averages_ingredients_and_paths_but_neither_stems_nor_counts():
    model = build(num_classes=3, duplicated=4)
    states = []
    for count in (7, 9):
        settle(model)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        for key, tensor in state.items():
            if key.endswith("num_batches_tracked"):
                tensor.fill_(count)
        states.append(state)
    result = soup(states)
    build(num_classes=3, duplicated=1).load_state_dict(result)
    for key, tensor in result.items():
        sources = [key]
        if re.match(r"shared\.block[234]\.", key):
            sources = [key.replace("shared.", f"{path}.", 1) for path in ("visible", "infrared")]
        values = np.stack([state[source].numpy() for state in states for source in sources])
        if key.endswith("num_batches_tracked"):
            assert tensor == 7
        else:
            np.testing.assert_allclose(tensor.numpy(), values.astype(np.float64).mean(0), rtol=1e-6, atol=1e-7)
    assert not torch.equal(result["visible.block1.conv_stem.weight"], result["infrared.block1.conv_stem.weight"])


def test_soup_of_different_networks_is_refused():
    with pytest.raises(InputError, match=r"ingredient 2 of the soup: tensor head\.classifier\.weight has shape"):
        soup([build(num_classes=3).state_dict(), build(num_classes=4).state_dict()])


def test_load_blocks_starts_a_stage_from_the_one_before():
    pretrained, top = settle(build(num_classes=3, duplicated=0)), build(num_classes=8, duplicated=4)
    head = top.head.classifier.weight.clone()
    load_blocks(top, pretrained.state_dict())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(top.eval()(infrared=images).features, pretrained(images).features, rtol=0, atol=0)
    assert torch.equal(top.head.classifier.weight, head)
    with pytest.raises(InputError, match="soup"):
        load_blocks(build(duplicated=1), top.state_dict())
    assert duplicated_blocks({f"visible.block{'9' * 5000}.weight": head}) == 0  # Python reads no such number
    with pytest.raises(InputError, match=r"top\.safetensors: lacks tensor visible\.block1"):
        load_blocks(build(LARGE, duplicated=4), top.state_dict(), "top.safetensors")


# --- files ---


@pytest.fixture
def saved(tmp_path):
    model = settle(create_model(SMALL, num_classes=3, slices=(4, 2), groups=32, last_stride=1, duplicated=4))
    path = tmp_path / "weights.safetensors"
    save_weights(path, model.to(memory_format=torch.channels_last), recipe="top", split={"train": 7})
    return model, path


def rewrite(path, change):
    """Rewrite a weights file after `change(tensors, entry)`."""
    with safetensors_torch.safe_open(str(path), "pt") as file:
        entry = json.loads(file.metadata()["toplight_ext"])
    tensors = safetensors_torch.load_file(path)
    change(tensors, entry)
    safetensors_torch.save_file(tensors, path, {"toplight_ext": json.dumps(entry)})


def with_past(path, trained_on):
    rewrite(path, lambda tensors, entry: entry["metadata"].update(trained_on=trained_on))


def test_weights_rebuild_the_network(saved):
    model, path = saved
    loaded, metadata = load_weights(path)
    assert metadata == {"recipe": "top", "split": {"train": 7}}
    assert not loaded.training and loaded.arguments == model.arguments
    assert equal_states(loaded.state_dict(), model.state_dict())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


STEM = "visible.block1.conv_stem.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, entry: tensors.pop(STEM), f"lacks tensor {STEM}"),
        (lambda tensors, entry: tensors.update(extra=torch.zeros(1)), "has the unknown tensor extra"),
        (
            lambda tensors, entry: tensors.update({STEM: torch.zeros(2, 3)}),
            rf"{STEM} has shape \(2, 3\), expected",
        ),
        (lambda tensors, entry: tensors[STEM].view(-1)[5:6].fill_(torch.nan), f"{STEM} holds NaN"),
        (lambda tensors, entry: entry.update(format=2), "weights format 2"),
        (
            lambda tensors, entry: entry["model"].update(pretrained=True),
            "unknown model arguments.*pretrained",
        ),
        (lambda tensors, entry: entry.pop("model"), "damaged"),
    ],
    ids=["missing", "unknown", "shape", "nan", "newer", "pretrained", "damaged entry"],
)
def test_damaged_weights_are_refused_by_file_and_tensor(saved, change, message):
    _, path = saved
    rewrite(path, change)
    with pytest.raises(InputError, match=rf"{path.name}: .*{message}"):
        load_weights(path)


def test_foreign_files_are_refused_with_the_reason(saved, tmp_path):
    model, path = saved
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_weights(path)
    torch.save(model.state_dict(), path)
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_weights(path)
    safetensors_torch.save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="not written by toplight_ext"):
        load_weights(path)
    with pytest.raises(InputError, match="no such file"):
        load_weights(tmp_path / "absent.safetensors")


def test_failed_save_leaves_the_old_file(saved, monkeypatch):
    model, path = saved
    before = path.read_bytes()

    def fail(file, data):
        with open(file, "wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match=f"no space left on device: '{path}'"):
            save_weights(path, model)
    model.head.norm.running_var[0] = torch.inf
    with pytest.raises(InputError, match=r"not written.*head\.norm\.running_var"):
        save_weights(path, model)
    with pytest.raises(InputError, match="OptimizedModule"):
        save_weights(path, torch.compile(model))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_soup_weights_of_two_files(saved, tmp_path):
    model, path = saved
    other = tmp_path / "other.safetensors"
    save_weights(other, settle(create_model(**model.arguments)), recipe="top2", split={"train": 7})
    result, metadata = soup_weights([path, other])
    assert result.duplicated == result.arguments["duplicated"] == 1
    assert equal_states(result.state_dict(), soup([read_weights(path).state, read_weights(other).state]))
    assert metadata.keys() == {"split", "ingredients"} and metadata["split"] == {"train": 7}
    names = [(item["file"], item["recipe"]) for item in metadata["ingredients"]]
    assert names == [(path.name, "top"), (other.name, "top2")]
    with_past(path, {"dataset": "regdb", "split": "train_1"})  # as older files have it
    with_past(other, [{"dataset": "folder", "split": None}, {"dataset": "regdb", "split": "train_3"}])
    assert read_weights(path).metadata["trained_on"] == [{"dataset": "regdb", "split": "train_1"}]
    _, metadata = soup_weights([path, other, path])
    seen = [(known["dataset"], known["split"]) for known in metadata["trained_on"]]
    assert seen == [("folder", None), ("regdb", "train_3"), ("regdb", "train_1")]
    rewrite(other, lambda tensors, entry: tensors[STEM].fill_(torch.nan))
    with pytest.raises(InputError, match=rf"other\.safetensors: tensor {STEM} holds NaN"):
        soup_weights([path, other])
    save_weights(other, build(num_classes=9, duplicated=4))
    with pytest.raises(InputError, match=r"other\.safetensors: its network is not .* num_classes 9 instead of 3"):
        soup_weights([path, other])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_public_checkpoint_loads_strictly_and_reports_the_mapping(tmp_path, suffix):
    root = plain(SMALL, num_classes=10)
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pth":
        state = {f"module.{key}": tensor for key, tensor in root.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        safetensors_torch.save_file(root.state_dict(), path)
    model = build(pretrained=path, duplicated=4).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = root.act2(root.conv_head(root.forward_features(images)))
        assert torch.equal(model(infrared=images, maps=True).final_maps[1], expected)
    report = model.pretrained_report
    assert set(report.left_out) == {"classifier.weight", "classifier.bias"}
    assert sum(report.loaded) == len(root.state_dict()) - 2
    assert report.loaded[0] == 6  # the stem's convolution and the five tensors of its BatchNorm
    assert "Block7: 8; left out: classifier." in str(report)


def test_wrong_public_checkpoints_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(timm.create_model(LARGE).state_dict(), path)
    with pytest.raises(InputError, match=r"checkpoint\.pth: .*tensor"):
        build(pretrained=path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="no state dict"):
        build(pretrained=path)

    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Malicious()}, path)
    for content in (
        path.read_bytes(),
        path.read_bytes()[:200],
        pickle.dumps({"state_dict": Malicious()}, protocol=2),
        b"<html>not found</html>",
        b"",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a torch checkpoint of tensors and numbers alone"):
            build(pretrained=path)
    assert not (tmp_path / "ran").exists()
