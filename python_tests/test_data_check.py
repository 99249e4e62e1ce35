"""`toplight data check`: what it counts, what it finds, what it says, and that it changes nothing."""

import io
import json
import struct

import pytest

pytest.importorskip("PIL", reason="Pillow is not installed (extra: train)")

import trees
from PIL import Image

from toplight_ext.cli import main
from toplight_ext.data import check_dataset


def found(report, level=None):
    """{kind: entries with paths below the root}, of one level or of all."""
    return {
        finding["kind"]: [(e["where"].removeprefix(f"{report.root}/"), e["what"]) for e in finding["entries"]]
        for finding in json.loads(json.dumps(report.to_json()))["findings"]
        if level in (None, finding["level"])
    }


def table(report, kind):
    """The section of the text about a kind."""
    title = next(finding.title for finding in report.findings if finding.kind == kind)
    return report.table().split(title)[1].split("\n\n")[0]


def manifest(root, rows) -> None:
    trees.table(root / "manifest.csv", [("path", "identity", "modality", "camera"), *rows])


@pytest.fixture
def pairs(tmp_path):
    """A manifest of three identities with a visible and an infrared image each, nothing wrong with it."""
    rows = []
    for k in range(6):
        modality, camera = (("visible", 4), ("infrared", 7))[k % 2]
        (tmp_path / f"{k}.jpg").write_bytes(trees.noise(k))
        rows.append([f"{k}.jpg", f"{k // 2}", modality, camera])
    manifest(tmp_path, rows)
    return tmp_path


def test_a_clean_set_is_counted_and_left_alone(pairs):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in pairs.rglob("*")}
    report = check_dataset("csv", pairs, decode=False)
    record = report.to_json()
    assert (record["ok"], record["findings"], record["identities"], record["images"]) == (True, [], 3, 6)
    assert record["by_camera"] == [
        {"modality": "visible", "camera": 4, "images": 3},
        {"modality": "infrared", "camera": 7, "images": 3},
    ]
    assert [line.split() for line in report.table().splitlines()] == [
        ["csv:", str(pairs)],
        ["split", "modality", "camera", "identities", "images"],
        ["visible", "4", "3"],
        ["infrared", "7", "3"],
        ["all", "all", "3", "6"],
        [],
        ["ok", "(headers", "read,", "not", "decoded)"],
    ]
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in pairs.rglob("*")}


def test_published_numbers_stand_beside_those_found(tmp_path):
    trees.small_sysu(tmp_path)
    report = check_dataset("sysu", tmp_path)
    train, test = report.to_json()["splits"]
    assert (train["identities"], train["published_identities"], train["images"]) == (3, 395, 12)
    assert (test["identities"], test["published_identities"], test["images"]) == (2, 96, 31)
    assert test["by_camera"][:2] == [
        {"modality": "visible", "camera": None, "images": 23, "published": 6775},
        {"modality": "visible", "camera": 1, "images": 13, "published": 1374},
    ]
    wrong = found(report, "error")["unpublished"]
    assert len(wrong) == 2 * (1 + 6 + 2) and not report.ok
    assert ("train", "3 identities, published are 395") in wrong
    assert ("test, infrared", "8 images, published are 3,803") in wrong
    assert "... and 8 more (--json lists all)" in table(report, "unpublished")
    assert "2 of 96" in report.table()


def test_a_missing_trial_is_missed(tmp_path):
    trees.regdb(tmp_path)
    entries = found(check_dataset("regdb", tmp_path))["unpublished"]
    assert ("train_3", "this split is missing") in entries and ("test_10", "this split is missing") in entries
    alone = found(check_dataset("regdb", tmp_path, "test_1"))["unpublished"]
    assert {where.split(",")[0] for where, _ in alone} == {"test_1"}


def test_what_cannot_be_used_is_named_with_its_reason(pairs, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.jpg").write_bytes(trees.noise(0))
    (pairs / "out").symlink_to(outside)
    (pairs / "0.jpg").write_bytes(b"")
    (pairs / "1.jpg").write_bytes(trees.noise(1)[:-20])
    (pairs / "2.jpg").write_text("hello")
    bomb = bytearray(trees.noise(3, "PNG"))
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)
    (pairs / "3.jpg").write_bytes(bytes(bomb))
    with open(pairs / "manifest.csv", "a") as stream:
        stream.write("out/secret.jpg,3,visible,4\n../x.jpg,3,visible,4\n5.jpg,3,visible,4\n5.jpg,3\n")
    report = check_dataset("csv", pairs)
    unusable = dict(found(report, "error")["unusable"])
    reasons = {
        "manifest.csv: row 2": "'0.jpg' is an empty file",
        "manifest.csv: row 8": "leaves",
        "manifest.csv: row 9": "contains '..'",
        "manifest.csv: row 10": "listed twice, first in",
        "manifest.csv: row 11": "the number of fields is not that of the header",
        "1.jpg": "truncated JPEG",
        "2.jpg": "not a JPEG, PNG or BMP image",
        "3.jpg": "30000x30000 pixels are more than the limit of 67108864",
    }
    assert unusable.keys() == reasons.keys()
    assert all(reason in unusable[where] for where, reason in reasons.items())
    assert not report.ok and "not ok" in report.table() and "\n  3.jpg: 30000x30000" in report.table()


def test_an_empty_file_in_a_folder_is_found(tmp_path):
    trees.imagenet(tmp_path)
    (tmp_path / "train" / "n01440764" / "n01440764_7.JPEG").write_bytes(b"")
    entry = ("train/n01440764/n01440764_7.JPEG", "the file is empty; replace the image or drop it from the list")
    assert found(check_dataset("folder", tmp_path))["unusable"] == [entry]


def test_suspicious_images(pairs):
    exif = Image.Exif()
    exif[0x0112] = 6
    (pairs / "0.jpg").write_bytes(trees.noise(0, exif=exif))
    (pairs / "1.jpg").write_bytes(trees.noise(1, mode="CMYK"))
    (pairs / "2.jpg").write_bytes(trees.noise(2, "PNG"))
    (pairs / "3.jpg").write_bytes(trees.noise(3, size=(15, 40)))
    (pairs / "4.jpg").write_bytes(trees.noise(4, size=(160, 160)))
    stream = io.BytesIO()
    Image.new("I;16", (16, 32), 40_000).save(stream, "PNG")
    (pairs / "5.jpg").write_bytes(stream.getvalue())
    report = check_dataset("csv", pairs)
    assert report.ok
    assert found(report, "warning") == {
        "misnamed": [("2.jpg", "is a PNG"), ("5.jpg", "is a PNG")],
        "small": [("3.jpg", "15x40 pixels")],
    }
    assert found(report, "note") == {
        "outlying": [("4.jpg", "160x160 pixels")],
        "deep": [("5.jpg", "16 bits")],
        "cmyk": [("1.jpg", "four channels")],
        "rotated": [("0.jpg", "EXIF orientation 6")],
    }


def test_decoding_finds_damaged_pixels_and_one_colour(pairs):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed (extra: train)")
    damaged = bytearray(trees.noise(1, "PNG"))
    damaged[60:90] = bytes(30)
    (pairs / "1.jpg").write_bytes(bytes(damaged))
    for name, format, mode in (("2.jpg", "JPEG", "RGB"), ("3.jpg", "JPEG", "L"), ("4.jpg", "BMP", "RGB")):
        Image.new(mode, (64, 128), "gray").save(pairs / name, format)
    assert "unusable" not in found(check_dataset("csv", pairs))
    report = check_dataset("csv", pairs, decode=True)
    assert found(report, "error") == {"unusable": [("1.jpg", "the image cannot be decoded")]}
    assert [where for where, _ in found(report)["one colour"]] == ["2.jpg", "3.jpg", "4.jpg"]
    assert "not ok (every image decoded)" in report.table()


def test_identities_of_one_modality(pairs):
    manifest(pairs, [[f"{k}.jpg", i, ("visible", "infrared")[k % 2], 1] for k, i in enumerate("001a2b")])
    assert found(check_dataset("csv", pairs)) == {
        "one modality": [
            ("identity 1", "has visible images only"),
            ("identity 2", "has visible images only"),
            ("identity a", "has infrared images only"),
            ("identity b", "has infrared images only"),
        ]
    }


def copy(root, source, target):
    (root / target).write_bytes((root / source).read_bytes())


def test_equal_bytes_of_one_identity_and_of_two(tmp_path):
    trees.small_sysu(tmp_path)
    copy(tmp_path, "cam1/0006/0001.jpg", "cam1/0006/0002.jpg")
    for target in ("cam1/0010/0001.jpg", "cam2/0010/0001.jpg", "cam5/0533/0002.jpg", "cam5/0002/0001.jpg"):
        copy(tmp_path, "cam2/0006/0001.jpg", target)
    report = check_dataset("sysu", tmp_path)
    assert found(report, "warning") == {
        "mislabelled": [
            (
                "cam5/0002/0001.jpg (identity 2, train)",
                f"same bytes as {tmp_path}/cam5/0533/0002.jpg (identity 533, train), "
                f"{tmp_path}/cam2/0006/0001.jpg (identity 6, test), "
                f"{tmp_path}/cam1/0010/0001.jpg (identity 10, test) and 1 more",
            )
        ],
        "repeated": [("cam1/0006/0001.jpg", f"same bytes as {tmp_path}/cam1/0006/0002.jpg")],
    }
    assert "cam1/0006/0001.jpg: same bytes as cam1/0006/0002.jpg" in table(report, "repeated")


def test_leaks_of_identities_and_of_images(tmp_path):
    trees.small_sysu(tmp_path / "sysu")
    (tmp_path / "sysu" / "exp" / "train_id.txt").write_text("1,2,10")
    leak = [("identity 10", "is in train and in test")]
    assert found(check_dataset("sysu", tmp_path / "sysu"), "error")["leak"] == leak

    trees.regdb(tmp_path / "regdb")  # what trains in trial 1 is asked for in trial 2, and that is no leak
    assert "leak" not in found(check_dataset("regdb", tmp_path / "regdb"))
    idx = tmp_path / "regdb" / "idx"
    for word in ("visible", "thermal"):
        (idx / f"test_{word}_2.txt").write_text((idx / f"train_{word}_2.txt").read_text())
    leaks = [(f"identity {i}", "is in train_2 and in test_2") for i in (1, 3)]
    assert found(check_dataset("regdb", tmp_path / "regdb"))["leak"] == leaks

    trees.faces(tmp_path / "oulu")  # lists of a user may each number their own people
    copy(tmp_path / "oulu", "test.csv", "train.csv")
    report = check_dataset("oulu", tmp_path / "oulu")
    assert report.ok and len(found(report, "warning")["leak"]) == 3

    # Numbers in one list, and a "1" among names in the other.
    for number, (split, people) in enumerate({"train": ("1", "2"), "test": ("1", "anna")}.items()):
        folder = tmp_path / "few" / split
        folder.mkdir(parents=True)
        for k, person in enumerate(people):
            (folder / f"{person}.jpg").write_bytes(trees.noise(2 * number + k))
        manifest(folder, [(f"{person}.jpg", person, "visible", 1) for person in people])
    warnings = found(check_dataset("csv", tmp_path / "few"), "warning")
    assert warnings == {"leak": [("identity 1", "is in train and in test")]}

    trees.imagenet(tmp_path / "imagenet")
    root = tmp_path / "imagenet"
    name = "n01440764/ILSVRC2012_val_00000000.JPEG"
    copy(root, f"val/{name}", "train/n01440764/n01440764_7.JPEG")
    place = "(identity n01440764, val)"
    warnings = found(check_dataset("imagenet", root), "warning")
    assert warnings == {
        "leaked image": [
            (
                "train/n01440764/n01440764_7.JPEG (identity n01440764, train)",
                f"same bytes as {root}/val/{name} {place}",
            )
        ]
    }


def test_the_command(pairs, capsys):
    assert main(["data", "check", "csv", str(pairs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"]
    (pairs / "0.jpg").write_bytes(trees.noise(0)[:-2])
    assert main(["data", "check", "csv", str(pairs)]) == 1
    out = capsys.readouterr().out
    assert "error: rows, files or images that cannot be used (1)\n  0.jpg: truncated JPEG" in out
    assert main(["data", "check", "regdb", str(pairs)]) == 2
    assert f"{pairs} has no list of them in idx" in capsys.readouterr().err
