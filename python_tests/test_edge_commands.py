"""`toplight export`, `benchmark`, `embed` and `match` on drawn images, as docs/export.md strings them together."""

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from toplight_ext import cli, deploy
from toplight_ext.data import load_dataset
from toplight_ext.data.synthetic import draw_synthetic
from toplight_ext.deploy import latency
from toplight_ext.deploy.quantisation import _spread
from toplight_ext.errors import InputError
from toplight_ext.evaluation import evaluate, load_features, parse_protocol
from toplight_ext.models import create_model, load_weights, save_weights

SIZE = (64, 32)


def run(capsys, *arguments) -> dict:
    """What a command prints with --json."""
    assert cli.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys, *arguments) -> str:
    assert cli.main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    pytest.importorskip("PIL.Image", reason="Pillow, of the extra train, is not installed")
    root = tmp_path_factory.mktemp("drawn") / "set"
    draw_synthetic(root, identities=6, dev_identities=8, views=2, size=SIZE)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    pytest.importorskip("timm", reason="backbones come from timm, which is not installed")
    pytest.importorskip("safetensors", reason="safetensors, of the extra train, is not installed")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    model = create_model("mobilenetv3_small_100", num_classes=3, slices=(4, 2))
    save_weights(path, model.eval(), size=list(SIZE), stage="vi")
    return path


@pytest.fixture(scope="module")
def exported(weights, drawn, tmp_path_factory) -> Path:
    """One folder, each stem exported into it by itself, since a folder of images calibrates one stem."""
    for package in ("onnx", "onnxscript", "onnxruntime", "nvidia.dali"):
        pytest.importorskip(package, reason="the extras train and export are not installed")
    out = tmp_path_factory.mktemp("exported")
    evaluated = ["--dataset", "synthetic", "--root", drawn, "--split", "dev"]
    for modality in ("visible", "infrared"):
        quantised = ["--stem", modality, "--int8", "--calibration", drawn / "train" / modality]
        assert cli.main([*map(str, ["export", "--weights", weights, "--out", out, *evaluated, *quantised])]) == 0
    return out


def test_a_second_stem_joins_the_first_in_the_folder(exported):
    names = {f"{stem}{ending}" for stem in ("visible", "infrared") for ending in (".onnx", ".int8.onnx")}
    assert set(json.loads((exported / "metadata.json").read_text())["files"]) == names
    assert {path.name for path in deploy.exported_files(exported)} == names
    assert {path.name for path in exported.glob("*.onnx")} == names
    card = (exported / "MODEL_CARD.md").read_text()
    assert all(name in card for name in names)


def test_a_folder_with_networks_of_other_weights_is_not_written_to(exported, weights, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "w.safetensors"
    out.mkdir()
    for name in ("metadata.json", "visible.onnx"):
        (out / name).write_bytes((exported / name).read_bytes())
    model, _ = load_weights(weights)
    save_weights(other, model, size=list(SIZE), stage="another")
    before = {path: path.read_bytes() for path in out.iterdir()}
    told = refused(capsys, "export", "--weights", other, "--out", out, "--stem", "infrared")
    assert f"{out}: holds visible.onnx of the network w.safetensors" in told
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_networks_that_are_written_anew_may_be_of_any_weights(exported):
    module = importlib.import_module("toplight_ext.deploy.export")  # `deploy.export` is the function
    written = module._names(("onnx",), ("visible", "infrared"), int8=True)
    assert written == {path.name for path in exported.glob("*.onnx")}
    assert module._kept(exported, "other weights", written) == {}
    with pytest.raises(InputError, match=r"holds infrared\.int8\.onnx of the network w\.safetensors"):
        module._kept(exported, "other weights", written - {"infrared.int8.onnx"})


def test_parity_tells_what_the_features_say(exported, weights, drawn):
    """Recomputed image by image in double precision; 8 bits make all the figures differ from one another."""
    rows = {tuple(row["files"]): row for row in json.loads((exported / "parity.json").read_text())["parity"]}
    samples = load_dataset("synthetic", drawn, "dev")
    protocol = parse_protocol("synthetic")
    exact = deploy.embed([weights], samples)
    for ending, most in ((".onnx", 1e-5), (".int8.onnx", 1.0)):
        files = [f"{stem}{ending}" for stem in ("visible", "infrared")]
        row = rows.pop(tuple(files))
        found = deploy.embed([exported / file for file in files], samples)
        cosines = [
            float(a @ b / np.sqrt((a @ a) * (b @ b)))
            for a, b in zip(exact.features.astype(np.float64), found.features.astype(np.float64), strict=True)
        ]
        difference = max(abs(exact.features - found.features).flatten()) / max(abs(exact.features).flatten())
        assert row["images"] == str(len(samples)) == "32"
        assert row["max_difference"] == pytest.approx(difference, rel=1e-3, abs=1e-5) and difference < most
        assert row["lowest_cosine"] == pytest.approx(min(cosines), abs=1e-5)
        assert row["mean_cosine"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
        scored = {name: evaluate(features, protocol) for name, features in (("exact", exact), ("found", found))}
        for score in ("r1", "mAP"):
            expected, got = (getattr(result, score) for result in scored.values())
            assert row[score] == pytest.approx(got) and row[f"{score}_change"] == pytest.approx(got - expected)
    assert not rows
    assert min(cosines) < sum(cosines) / len(cosines) - 1e-4 and row["mAP_change"] != 0


def test_8_bits_are_small_and_near(exported):
    sizes = [(exported / f"visible{ending}").stat().st_size for ending in (".onnx", ".int8.onnx")]
    assert sizes[1] < 0.4 * sizes[0]
    row = json.loads((exported / "parity.json").read_text())["parity"][-1]
    assert row["files"] == ["visible.int8.onnx", "infrared.int8.onnx"] and 0.9 < row["lowest_cosine"] < 1 - 1e-6


def test_benchmark_writes_what_it_prints(exported, weights, tmp_path, capsys):
    files = [exported / "visible.onnx", weights]
    printed = run(capsys, "benchmark", *files, "--threads", 1, "--repeats", 10, "--csv", tmp_path / "b.csv")
    lines = (tmp_path / "b.csv").read_text().splitlines()
    told = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    assert told == {name: str(value) for name, value in printed["hardware"].items()} and "cpu" in told
    rows = list(csv.DictReader(line for line in lines if not line.startswith("# ")))
    assert rows == [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in printed["rows"]
    ]
    assert [(row["file"], row["format"], row["threads"]) for row in rows] == [
        (str(file), form, "1") for file, form in zip(files, ("onnx", "pytorch"), strict=True)
    ]
    assert all(row["median_ms"] <= row["p95_ms"] and row["peak_mib"] > row["file_mib"] > 1 for row in printed["rows"])


def test_benchmark_takes_a_folder(exported, capsys, monkeypatch):
    monkeypatch.setattr(latency, "_peak_memory", lambda *_: None)
    assert cli.main(["benchmark", str(exported), "--threads", "1", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert "median ms" in out and all(str(file) in out for file in deploy.exported_files(exported))


def test_embed_and_match_take_the_folder_for_both_stems(weights, exported, drawn, tmp_path, capsys):
    """The exact stems in a folder of their own: with the 8 bit ones beside them there would be two of each."""
    folder = tmp_path / "exact"
    folder.mkdir()
    listed = json.loads((exported / "metadata.json").read_text())
    listed["files"] = {name: known for name, known in listed["files"].items() if ".int8" not in name}
    (folder / "metadata.json").write_text(json.dumps(listed))
    for name in listed["files"]:
        (folder / name).write_bytes((exported / name).read_bytes())
    manifest, index = drawn / "dev", tmp_path / "g.index"
    told = run(capsys, "embed", manifest, "--modality", "visible", "--weights", folder, "--out", index)
    assert told["images"] == 16 and told["dimensions"] == deploy.GalleryIndex(index).dimensions
    assert run(capsys, "embed", manifest, "--weights", folder, "--out", tmp_path / "f.npz")["images"] == 32
    of_both = load_features(tmp_path / "f.npz")
    expected = deploy.embed([weights], load_dataset("synthetic", drawn, "dev"))
    np.testing.assert_allclose(of_both.features, expected.features, atol=1e-5 * abs(expected.features).max())

    queries = ["--query-modality", "infrared", "--weights", folder, "--top", 3]
    found = run(capsys, "match", manifest, index, *queries)["queries"]
    infrared, visible = (of_both.modality == name for name in ("infrared", "visible"))
    unit = of_both.features / np.linalg.norm(of_both.features, axis=1, keepdims=True)
    nearest = np.argmax(unit[infrared] @ unit[visible].T, axis=1)
    assert [query["path"] for query in found] == of_both.paths[infrared].tolist()
    assert [query["gallery"][0]["path"] for query in found] == of_both.paths[visible][nearest].tolist()
    assert all(len(query["gallery"]) == 3 for query in found)
    told = refused(capsys, "embed", manifest, "--weights", exported, "--out", index)
    assert "visible.onnx does: give one file for each modality" in told


def test_images_of_unknown_modality_ask_for_the_argument_that_tells(drawn, weights, tmp_path, capsys):
    images = drawn / "dev" / "visible"
    common = ["--weights", weights]
    assert "give --modality, visible" in refused(capsys, "embed", images, *common, "--out", tmp_path / "f.npz")
    assert "give --query-modality, visible" in refused(capsys, "match", images, images, *common)
    np.savez(tmp_path / "q.npz", features=np.ones((2, 3), np.float32), identity=[0, 1], camera=[0, 0])
    assert "give --gallery-modality, vis" in refused(capsys, "match", tmp_path / "q.npz", images, *common)
    told = refused(capsys, "export", *common, "--out", tmp_path, "--int8", "--calibration", images)
    assert "give a single --stem, visible" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["embed", "nowhere", "--weights", "none", "--out", "g.foo"],
            "g.foo: expected a file ending in .npz, .safeten",
        ),
        (["embed", "nowhere", "--weights", "none", "--out", "g.foo"], " or .index"),
        (["match", "nowhere", "none.index", "--weights", "none", "--top", "0"], "top 0: expected at least 1"),
        (
            ["match", "nowhere", "none.index", "--weights", "none", "--approximate", "0"],
            "0 probes: expected at least 1",
        ),
        (
            ["evaluate", "--dataset", "csv", "--root", "nowhere", "--weights", "none", "--save-features", "f.foo"],
            "f.foo: expected a file ending in .npz or .safetensors",
        ),
    ],
)
def test_what_can_be_checked_at_once_is_checked_before_any_file_is_read(arguments, words, capsys):
    assert words in refused(capsys, *arguments)


def test_a_missing_faiss_is_told_before_any_file_is_read(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert cli.main(["match", "nowhere", "none.index", "--weights", "none", "--approximate"]) == 1
    assert "toplight_ext[faiss]" in capsys.readouterr().err


def test_a_row_of_the_benchmark_says_median_percentile_and_ratio(tmp_path):
    file = tmp_path / "n.onnx"
    file.write_bytes(bytes(3 << 20))
    seconds = list(np.random.default_rng(0).permutation(101) / 1000)  # 0 to 100 ms
    row = latency._row(file, 2, 8, seconds, [0.02, 0.025, 0.03], None)
    assert (row.median_ms, row.p95_ms, row.images_per_second) == pytest.approx((50, 95, 160))
    assert (row.threads, row.file_mib, row.ratio) == (2, 3, pytest.approx(2))


def test_what_sets_its_own_threads_is_timed_once(tmp_path, monkeypatch):
    files = [tmp_path / "a.onnx", tmp_path / "b.pte"]
    for file in files:
        file.touch()
    monkeypatch.setattr(latency, "_load", lambda file, threads: file)
    monkeypatch.setattr(latency, "_interleaved", lambda networks, count, *_: [[count / 8]] * len(networks))
    monkeypatch.setattr(latency, "_peak_memory", lambda *_: None)
    rows = latency.benchmark(files, threads=(1, 2), batches=(1, 4))
    timed = [(Path(row.file).suffix, row.threads, row.batch, row.median_ms, row.ratio) for row in rows]
    one = [(".onnx", 1, 1, 125, 1), (".onnx", 1, 4, 125, 1)]
    two = [(suffix, threads, batch, 250, 1) for batch in (1, 4) for suffix, threads in ((".onnx", 2), (".pte", None))]
    assert timed == one + two
    assert rows[3].cells()[latency.HEAD.index("threads")] == ""
    alone = latency.benchmark(files[::-1], threads=(1, 2))
    assert [(row.threads, row.ratio) for row in alone] == [(1, None), (None, 1), (2, 1)]


def test_calibration_images_are_spread_over_all_that_are_given():
    assert _spread(range(200)) == range(200)
    for count in (257, 1000, 5000):
        chosen = list(_spread(range(count)))
        steps = set(np.diff(chosen))
        assert 128 <= len(chosen) <= 256 and len(steps) == 1 and chosen[0] == 0 and chosen[-1] + steps.pop() >= count
