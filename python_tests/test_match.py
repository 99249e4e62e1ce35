"""Matching: exact answers against NumPy in double precision, the index file, files of strangers."""

import dataclasses
import json
import struct

import numpy as np
import pytest

from toplight_ext import cli, deploy
from toplight_ext.data import Modality
from toplight_ext.errors import InputError
from toplight_ext.evaluation import Features, Origin, load_features, network_of, save_features
from toplight_ext.report import pictures


def features(count, seed=0, dimensions=24):
    random = np.random.default_rng(seed)
    return Features(
        random.standard_normal((count, dimensions)).astype(np.float32),
        identity=np.arange(count) % 7,
        camera=np.arange(count) % 3,
        modality=np.where(np.arange(count) % 2, "visible", "infrared"),
        paths=np.array([f"ünïcode/{i}\n.png" for i in range(count)]),
    )


@pytest.fixture
def index(tmp_path):
    return deploy.write_index(tmp_path / "gallery.index", features(9000))


def cosines(query, gallery):
    """1 - cosine in double precision, the gallery rounded as its file rounds it."""
    query, gallery = (x.astype(np.float64) for x in (query, gallery))
    unit = (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    return 1 - query @ unit.T / np.linalg.norm(query, axis=1, keepdims=True) / np.linalg.norm(unit, axis=1)


def test_index_gives_the_exact_nearest(index):
    query = features(5, seed=1).features
    found = deploy.search(query, deploy.GalleryIndex(index), top=10)
    expected = cosines(query, features(9000).features)
    assert np.array_equal(found.rows, np.argsort(expected, axis=1)[:, :10])
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :10], atol=1e-6)


def test_ties_stay_in_the_order_of_the_gallery_over_blocks(tmp_path):
    some = features(9000).features
    some[[17, 4095, 4096, 8200, 8999]] = some[17]
    copies = Features(some, np.zeros(9000, int), np.zeros(9000, int))
    for gallery in (
        deploy.GalleryIndex(deploy.write_index(tmp_path / "g.index", copies)),
        deploy.FeatureGallery(copies),
    ):
        found = deploy.search(3 * some[17:18], gallery, top=7)
        assert found.rows[0, :5].tolist() == [17, 4095, 4096, 8200, 8999]
        assert len(set(found.rows[0])) == 7


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_lengths_neither_vanish_nor_overflow(scale, tmp_path):
    """The squares of such features are beyond single precision."""
    query, few = features(2, seed=1), features(50)
    expected = cosines(query.features, few.features)
    few = dataclasses.replace(few, features=np.float32(scale) * few.features)
    index = deploy.write_index(tmp_path / "g.index", few)
    for gallery in (deploy.GalleryIndex(index), deploy.FeatureGallery(few)):
        found = deploy.search(np.float32(scale) * query.features, gallery, top=50)
        np.testing.assert_allclose(found.distances, np.sort(expected, axis=1), atol=1e-3)


def test_index_knows_its_images_and_small_galleries_give_what_they_have(index, tmp_path):
    entry = deploy.GalleryIndex(index).entry(8)
    assert entry == ("ünïcode/8\n.png", "1", "infrared", 2)
    small = deploy.GalleryIndex(deploy.write_index(tmp_path / "small.index", features(3)))
    assert sorted(deploy.search(features(1).features, small, top=10).rows[0]) == [0, 1, 2]


def with_header(data: bytes, **changes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    for name, value in changes.items():
        header[name] = {**header[name], **value}
    text = json.dumps(header).encode().ljust(length)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-9],
    "longer": lambda data: data + b"0",
    "text": lambda data: b"path,identity\n" * 40,
    "a header of exabytes": lambda data: b"\xff" * 8 + data[8:],
    "more rows than there are": lambda data: with_header(data, features={"shape": [10**12, 24]}),
    "no columns": lambda data: with_header(data, features={"shape": [9000, 0]}),
    "overlapping arrays": lambda data: with_header(data, camera={"data_offsets": [0, 72000]}),
    "another type": lambda data: with_header(data, features={"dtype": "F32"}),
    "another version": lambda data: with_header(data, __metadata__={"format": "2"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_index_is_named_and_refused(index, damage):
    index.write_bytes(DAMAGES[damage](index.read_bytes()))
    with pytest.raises(InputError, match=r"gallery\.index"):
        deploy.GalleryIndex(index)


def test_numbers_that_are_not_finite_and_texts_out_of_bounds_are_found(index):
    opened = deploy.GalleryIndex(index)
    data = bytearray(index.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    start = 8 + length + json.loads(data[8 : 8 + length])["path_offsets"]["data_offsets"][0]
    data[start + 64 : start + 72] = struct.pack("<q", 1 << 60)  # of row 8
    data[8 + length : 10 + length] = np.float16(np.nan).tobytes()
    index.write_bytes(data)
    opened = deploy.GalleryIndex(index)
    with pytest.raises(InputError, match="path of row 8"):
        opened.entry(8)
    with pytest.raises(InputError, match="rows from 0"):
        deploy.search(features(1).features, opened)


def test_queries_of_another_network_and_without_direction_are_refused(index, tmp_path):
    gallery = deploy.GalleryIndex(index)
    with pytest.raises(InputError, match="different networks"):
        deploy.search(features(2, dimensions=25).features, gallery)
    with pytest.raises(InputError, match="query 0 has length 0"):
        deploy.search(np.zeros((1, 24), np.float32), gallery)
    zero = Features(np.zeros((2, 4), np.float32), np.zeros(2, int), np.zeros(2, int))
    with pytest.raises(InputError, match="length 0"):
        deploy.write_index(tmp_path / "zero.index", zero)
    assert not (tmp_path / "zero.index").exists()


def test_approximate_search_tells_its_recall(index):
    pytest.importorskip("faiss", reason="the extra faiss is not installed")
    gallery, query = deploy.GalleryIndex(index), features(20, seed=1).features
    exact = deploy.search(query, gallery)
    everywhere = deploy.ApproximateGallery(gallery, clusters=16, probes=16)
    assert deploy.recall(everywhere.search(query), exact) > 0.99
    one = deploy.ApproximateGallery(gallery, clusters=16, probes=1)
    assert deploy.recall(one.search(query), exact) < 0.9


def test_the_lists_of_an_approximate_search_are_those_that_faiss_found(tmp_path, capsys):
    """Of 8,000 images in 357 clusters, one of which is looked at: short lists, of which many rows are not the exact."""
    pytest.importorskip("faiss", reason="the extra faiss is not installed")
    save_features(tmp_path / "q.npz", features(20, seed=1))
    deploy.write_index(tmp_path / "g.index", features(8000))
    arguments = ["match", str(tmp_path / "q.npz"), str(tmp_path / "g.index"), "--top", "40"]
    outputs = {}
    for probes in (None, 1, 1000):
        asked = [] if probes is None else ["--approximate", str(probes)]
        assert cli.main([*arguments, *asked, "--json"]) == 0
        outputs[probes] = json.loads(capsys.readouterr().out.splitlines()[-1])
    paths = {
        probes: [[each["path"] for each in query["gallery"]] for query in found["queries"]]
        for probes, found in outputs.items()
    }
    shared = {
        probes: np.mean([len({*some} & {*exact}) / 40 for some, exact in zip(lists, paths[None], strict=True)])
        for probes, lists in paths.items()
    }
    assert "recall" not in outputs[None]
    assert outputs[1]["recall"] == pytest.approx(shared[1], abs=0.01) and 0 < shared[1] < 0.6
    assert min(map(len, paths[1])) < 40 and all(map(len, paths[1]))
    assert outputs[1000]["recall"] > 0.99 and shared[1000] > 0.99
    assert cli.main([*arguments, "--approximate", "1"]) == 0
    assert f"found {100 * outputs[1]['recall']:.2f} % of the exact lists" in capsys.readouterr().out


def test_a_gallery_smaller_than_the_list_is_found_whole():
    pytest.importorskip("faiss", reason="the extra faiss is not installed")
    gallery, query = deploy.FeatureGallery(features(30)), features(4, seed=1).features
    found = deploy.ApproximateGallery(gallery, clusters=2, probes=2).search(query, top=50)
    assert found.rows.shape == (4, 30)
    assert deploy.recall(found, deploy.search(query, gallery, top=50)) == 1


def test_command_prints_and_draws_ranked_lists(index, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="Pillow, of the extra train, is not installed")
    save_features(tmp_path / "q.npz", features(2))
    arguments = ["match", str(tmp_path / "q.npz"), str(index), "--top", "4"]
    assert cli.main([*arguments, "--json", "--picture", str(tmp_path / "lists.png")]) == 0
    queries = json.loads(capsys.readouterr().out.splitlines()[-1])["queries"]
    assert [query["gallery"][0]["path"] for query in queries] == ["ünïcode/0\n.png", "ünïcode/1\n.png"]
    assert all(query["gallery"][0]["correct"] and len(query["gallery"]) == 4 for query in queries)
    assert image.open(tmp_path / "lists.png").width > 400
    assert cli.main(arguments) == 0
    assert "right" in capsys.readouterr().out
    assert cli.main(["match", str(tmp_path), str(index)]) == 2
    assert "images need --weights" in capsys.readouterr().err


def test_the_picture_shows_images_as_the_network_sees_them(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow, of the extra train, is not installed")
    image, lying = image_module.new("RGB", (40, 20), "black"), image_module.Exif()
    image.paste("white", (0, 0, 20, 20))  # the left half, which is to be above
    lying[0x0112] = 6
    image.save(tmp_path / "lying.png", exif=lying)
    found = pictures.thumbnail(str(tmp_path / "lying.png"), 100, 100)
    assert found.size == (20, 40) and found.getpixel((10, 5)) > found.getpixel((10, 35))


def test_pickled_features_are_refused(tmp_path, index, capsys):
    np.savez(tmp_path / "q.npz", features=np.array([{}], dtype=object), identity=[0], camera=[0])
    assert cli.main(["match", str(tmp_path / "q.npz"), str(index)]) == 2
    assert "q.npz" in capsys.readouterr().err


def test_any_weights_file_has_a_name_that_its_features_can_keep(tmp_path):
    weights = tmp_path / f"{'x' * 220}\n.safetensors"
    names = []
    for content in (b"one", b"another"):
        weights.write_bytes(content)
        names.append(network_of(weights))
        save_features(tmp_path / "f.npz", dataclasses.replace(features(2), origin=Origin(network=names[-1])))
        assert load_features(tmp_path / "f.npz").origin.network == names[-1]
    assert names[0] != names[1]


def test_features_of_two_networks_are_not_compared(tmp_path, capsys):
    known = {
        n: dataclasses.replace(features(9), origin=Origin(network=n)) for n in ("w.safetensors 0a", "w.safetensors 0b")
    }
    one, other = known.values()
    save_features(tmp_path / "q.npz", one)
    save_features(tmp_path / "g.npz", other)
    deploy.write_index(tmp_path / "g.index", other)
    for gallery in ("g.npz", "g.index"):
        assert cli.main(["match", str(tmp_path / "q.npz"), str(tmp_path / gallery)]) == 2
        assert "of the network w.safetensors 0b, the queries' of w.safetensors 0a" in capsys.readouterr().err
    for gallery in (one, features(9)):  # the same, or not known
        deploy.write_index(tmp_path / "g.index", gallery)
        assert cli.main(["match", str(tmp_path / "q.npz"), str(tmp_path / "g.index")]) == 0


def test_a_number_of_probes_that_asks_for_nothing_is_refused(tmp_path, index, capsys):
    pytest.importorskip("faiss", reason="the extra faiss is not installed")
    save_features(tmp_path / "q.npz", features(2))
    assert cli.main(["match", str(tmp_path / "q.npz"), str(index), "--approximate", "0"]) == 2
    assert "0 probes: expected at least 1" in capsys.readouterr().err
    for clusters in (0, 10_000):
        with pytest.raises(InputError, match=f"{clusters} clusters, .* expected 1 to 9000"):
            deploy.ApproximateGallery(deploy.GalleryIndex(index), clusters=clusters)


def test_a_modality_chooses_among_the_images_of_a_manifest(tmp_path):
    rows = [("0.png", "a", "visible", 3), ("1.png", "a", "infrared", 4), ("2.png", "b", "visible", 3)]
    for name, *_ in rows:
        (tmp_path / name).write_bytes(b"x")
    (alone,) = deploy.find_samples(tmp_path / "1.png", Modality.VISIBLE)
    assert (alone.identity, alone.camera) == ("", -1), "nothing is known of an image without a manifest"
    lines = ["path,identity,modality,camera", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    found = {modality: deploy.find_samples(tmp_path, modality) for modality in (None, *Modality)}
    assert [[s.path.name for s in samples] for samples in found.values()] == [
        ["0.png", "1.png", "2.png"],
        ["0.png", "2.png"],
        ["1.png"],
    ]
    (tmp_path / "manifest.csv").write_text("\n".join(lines[:2]))
    with pytest.raises(InputError, match="none of its 1 images is infrared"):
        deploy.find_samples(tmp_path, Modality.INFRARED)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    outside, folder = tmp_path / "outside.png", tmp_path / "folder"
    folder.mkdir()
    outside.write_bytes(b"x")
    (folder / "1.png").symlink_to(outside)
    with pytest.raises(InputError, match=r"1\.png: the link leads to .*outside\.png"):
        deploy.find_samples(folder, Modality.VISIBLE)
