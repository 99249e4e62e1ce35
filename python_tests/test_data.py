"""Manifests, class folders and the drawn set: what a list or folder becomes, and what is refused."""

import csv
import functools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toplight_ext.data import DATASETS, Generic, Modality, check_dataset, draw_synthetic, load_dataset, of_modality
from toplight_ext.data.header import inspect
from toplight_ext.errors import InputError

Image = pytest.importorskip("PIL.Image")

from trees import noise, table  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    """A manifest of two identities with two visible and two infrared images."""
    rows = []
    for i, (modality, camera) in enumerate((("visible", 1), ("infrared", 2))):
        for identity in range(2):
            name = f"{modality}/{identity}.jpg"
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(noise(2 * i + identity, mode="RGB" if camera == 1 else "L"))
            rows.append([name, str(identity), modality, str(camera)])
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows, header=("path", "identity", "modality", "camera")):
    table(folder / "manifest.csv", [header, *rows])


def rows_of(folder):
    with open(folder / "manifest.csv", newline="") as stream:
        return list(csv.reader(stream))[1:]


def test_manifest_as_file_or_folder(folder):
    samples = load_dataset("csv", folder)
    assert samples == load_dataset("csv", folder / "manifest.csv")
    assert [(s.path.relative_to(folder).as_posix(), s.identity, s.modality, s.camera) for s in samples] == [
        ("visible/0.jpg", 0, Modality.VISIBLE, 1),
        ("visible/1.jpg", 1, Modality.VISIBLE, 1),
        ("infrared/0.jpg", 0, Modality.INFRARED, 2),
        ("infrared/1.jpg", 1, Modality.INFRARED, 2),
    ]
    assert [s.camera for s in of_modality(samples, Modality.INFRARED)] == [2, 2]


def test_manifest_dialects(folder):
    """A byte order mark, CRLF, blank lines, another column order and further columns change nothing."""
    expected = load_dataset("csv", folder)
    lines = ["note,camera,modality,identity,path", "", *(f'"x,y",{c},{m},{i},{p}' for p, i, m, c in rows_of(folder))]
    (folder / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    assert load_dataset("csv", folder) == expected


@pytest.mark.parametrize(
    "names, kept", [(("7", "12"), (7, 12)), (("7", "007"), ("7", "007")), (("a", "1"), ("a", "1"))]
)
def test_identities_become_numbers_only_if_no_name_is_lost(folder, names, kept):
    write(folder, [[row[0], names[k % 2], *row[2:]] for k, row in enumerate(rows_of(folder))])
    assert [s.identity for s in load_dataset("csv", folder)] == [*kept, *kept]


BAD_ROWS = {
    "unknown modality": (2, "thermal", "unknown modality 'thermal'; expected visible or infrared"),
    "bad camera": (3, "1.5", "bad camera '1.5'"),
    "negative camera": (3, "-1", "bad camera '-1'"),
    "no identity": (1, " ", "identity is empty"),
    "no path": (0, "", "bad path ''"),
    "absolute path": (0, "/etc/passwd", "absolute or contains"),
    "path upwards": (0, "visible/../../x.jpg", "absolute or contains"),
    "missing file": (0, "visible/9.jpg", "visible/9.jpg.: cannot read the image: No such file"),
    "folder": (0, "visible", "visible. is not a file"),
    "empty file": (0, "empty.jpg", "empty.jpg. is an empty file"),
    "link outwards": (0, "link.jpg", "symbolic link"),
    "linked folder": (0, "out/secret.jpg", "symbolic link"),
    "link to itself": (0, "loop.jpg", "cannot read|symbolic link"),
    "listed twice": (0, "./visible//0.jpg", "listed twice, first in .*row 2"),
    "absurdly long": (0, "x" * 9999, r"xxx\.\.\.'.*too long"),
}


@pytest.mark.parametrize("column, value, message", BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row_is_named_by_its_number(folder, tmp_path_factory, column, value, message):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.jpg").write_bytes(noise(0))
    (folder / "empty.jpg").touch()
    (folder / "link.jpg").symlink_to(outside / "secret.jpg")
    (folder / "out").symlink_to(outside)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    rows = rows_of(folder)
    rows[1][column] = value
    write(folder, rows)
    with pytest.raises(InputError, match=rf"manifest\.csv: row 3: .*({message})"):
        load_dataset("csv", folder)
    unusable = check_dataset("csv", folder).findings[0]
    assert unusable.level == "error" and [problem.where[-5:] for problem in unusable.entries] == ["row 3"]


def test_links_inside_the_folder_are_followed(folder):
    (folder / "alias.jpg").symlink_to("visible/0.jpg")
    write(folder, [["alias.jpg", "5", "visible", "1"]])
    assert load_dataset("csv", folder)[0].identity == 5


BAD_MANIFESTS = {
    "empty": (b"", "is empty; its first row must be path,identity,modality,camera"),
    "header only": (b"path,identity,modality,camera\n", "has a header but no rows"),
    "missing column": (b"path,id,modality,camera\nx,1,visible,1\n", "'identity' is missing.*found .path,id,"),
    "double column": (b"path,path,identity,modality,camera\n", "'path' appears more than once"),
    "UTF-16": ("path,identity,modality,camera\n".encode("utf-16"), "not UTF-8"),
    "open quote": (b'path,identity,modality,camera\n"x,1,visible,1\n', "row 2: not CSV"),
    "short row": (b"path,identity,modality,camera\nx,1\n", "row 2: the number of fields"),
}


@pytest.mark.parametrize("content, message", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_bad_manifest(tmp_path, content, message):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"manifest\.csv: .*{message}"):
        load_dataset("csv", tmp_path)


def test_wrong_root_says_what_is_there(folder):
    (folder / "dev").mkdir()
    (folder / "manifest.csv").rename(folder / "dev" / "manifest.csv")
    with pytest.raises(InputError, match=r"no such manifest; there is dev/manifest.csv: name one as the split"):
        load_dataset("csv", folder)
    with pytest.raises(InputError, match="has no split 'dev'"):
        load_dataset("csv", folder / "dev" / "manifest.csv", "dev")
    with pytest.raises(InputError, match=r"no data set 'sysuu'; known are sysu, .* csv, synthetic"):
        load_dataset("sysuu", folder)
    with pytest.raises(InputError, match=r"no such folder; .* has dev, infrared, visible"):
        load_dataset("folder", folder, "train")
    with pytest.raises(InputError, match="no such folder"):
        load_dataset("folder", folder / "nowhere")


def test_class_folders(tmp_path):
    for name in ("train/dress/b.jpg", "train/dress/deep/a.PNG", "train/hat/c.bmp", "train/hat/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    samples = load_dataset("folder", tmp_path, "train")
    assert [(s.path.name, s.identity) for s in samples] == [("b.jpg", "dress"), ("a.PNG", "dress"), ("c.bmp", "hat")]
    assert {s.modality for s in samples} == {Modality.VISIBLE}
    (tmp_path / "train" / "sock").mkdir()
    with pytest.raises(InputError, match="sock: no image"):
        load_dataset("folder", tmp_path, "train")


def test_what_is_hidden_is_neither_split_nor_class(folder):
    for name in ("manifest.csv", "._dev.csv", "dev.csv"):
        for place in (folder, folder / ".trash", folder / "dev"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).touch()
    (folder / "manifest.csv").unlink()
    assert DATASETS["csv"].splits(folder) == ["dev"]
    assert DATASETS["oulu"].splits(folder) == ["dev"]
    for modality in ("visible", "infrared"):
        (folder / modality).rename(folder / "dev" / modality)
    assert DATASETS["folder"].splits(folder) == ["dev"]
    with pytest.raises(InputError, match="its folders are splits"):
        load_dataset("folder", folder)


@pytest.mark.parametrize(
    "format, mode, options",
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {"progressive": True}),
        ("JPEG", "CMYK", {"comment": b"\xff\xd9 not the end"}),
        ("PNG", "RGBA", {}),
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
    ],
)
def test_header_gives_format_and_size_and_notices_every_cut(format, mode, options):
    data = noise(0, format, size=(37, 21), mode=mode, **options)
    assert inspect(data) == (format, 37, 21, 8, mode == "CMYK", 1)
    for length in {0, 1, 2, 9, 30, 100, len(data) // 2, len(data) - (2 if format == "JPEG" else 8)}:
        with pytest.raises(ValueError, match=r"empty|truncated|not a JPEG"):
            inspect(data[:length])


def test_header_refuses_what_would_exhaust_memory():
    bomb = bytearray(noise(0, "PNG"))
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)
    with pytest.raises(ValueError, match="30000x30000 pixels are more than the limit of"):
        inspect(bytes(bomb))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "BMP"]), st.data())
def test_damaged_header_is_a_value_error_at_worst(format, data):
    damaged = bytearray(noise(0, format))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 200) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = inspect(bytes(damaged))
    except ValueError:
        return
    assert header.width > 0 and header.height > 0


def test_synthetic_is_drawn_once_whole_and_equal(tmp_path):
    size = {"identities": 3, "dev_identities": 2, "views": 2, "size": (64, 32)}
    (tmp_path / "b").mkdir()  # empty: as good as missing
    for name in ("a", "b"):
        draw_synthetic(tmp_path / name, **size)
    draw_synthetic(tmp_path / "c", **size, seed=1)
    samples = {name: load_dataset("synthetic", tmp_path / name) for name in "abc"}
    content = {name: [s.path.read_bytes() for s in samples[name]] for name in samples}
    assert content["a"] == content["b"] != content["c"]
    assert len(samples["a"]) == (3 + 2) * 2 * 2
    train, dev = (load_dataset("synthetic", tmp_path / "a", split) for split in ("train", "dev"))
    assert train + dev == samples["a"]
    assert not {s.identity for s in train} & {s.identity for s in dev}
    image = Image.open(of_modality(dev, Modality.INFRARED)[0].path)
    assert (image.mode, image.size) == ("L", (32, 64))
    assert not check_dataset("synthetic", tmp_path / "a").findings
    with pytest.raises(InputError, match="not empty"):
        draw_synthetic(tmp_path / "a", **size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]  # no temporary folder is left


def test_synthetic_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("toplight_ext.data.synthetic.write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw_synthetic(tmp_path / "set", identities=1, dev_identities=1, views=1)
    assert not list(tmp_path.iterdir())


def test_synthetic_is_drawn_by_loading_and_never_by_checking(tmp_path, monkeypatch):
    small = functools.partial(draw_synthetic, identities=2, dev_identities=1, views=1, size=(32, 16))
    monkeypatch.setattr("toplight_ext.data.synthetic.draw_synthetic", small)
    with pytest.raises(InputError, match="no such manifest"):
        check_dataset("synthetic", tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert len(load_dataset("synthetic", tmp_path / "set", "train")) == 4
    with pytest.raises(InputError, match="no split 'test'; known are train, dev"):
        load_dataset("synthetic", tmp_path / "set", "test")


def test_infrared_is_not_the_grey_of_visible(tmp_path):
    """Ranking the dev walkers by grey correlation is near chance, though one modality alone is not."""
    draw_synthetic(tmp_path / "set", identities=1, dev_identities=40, views=2)
    samples = load_dataset("synthetic", tmp_path / "set", "dev")
    rows = np.stack([np.asarray(Image.open(s.path).convert("L").resize((16, 32)), float).ravel() for s in samples])
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    identity = np.array([s.identity for s in samples])
    visible = np.array([s.modality is Modality.VISIBLE for s in samples])
    similarity = rows[~visible] @ rows[visible].T
    rank1 = np.mean(identity[visible][similarity.argmax(axis=1)] == identity[~visible])
    assert rank1 < 0.15  # chance 1/40


def test_ranges_are_checked_by_name():
    with pytest.raises(InputError, match=r"generic\.crop_scale = \(0\.9, 0\.5\): expected two rising numbers"):
        Generic(crop_scale=(0.9, 0.5))
    with pytest.raises(InputError, match=r"generic\.flip_probability = 2: expected a number from 0\.0 to 1\.0"):
        Generic(flip_probability=2)


def test_real_sets(shared):
    clothing = shared / "data" / "clothing10"
    train = load_dataset("folder", clothing, "train")
    assert (len(train), len({s.identity for s in train})) == (3068, 10)
    found = check_dataset("folder", clothing).to_json()
    assert found["ok"] and [split["images"] for split in found["splits"]] == [3068, 341, 372]
