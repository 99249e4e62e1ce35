"""The data sets of the field: from their authors' layout to samples, what is refused, and whole evaluations."""

import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="Pillow is not installed (extra: train)")

import trees

from toplight_ext import inference
from toplight_ext.cli import deploy, main, parser
from toplight_ext.data import Modality, identity_labels, list_dataset, load_dataset
from toplight_ext.errors import InputError

V, I = Modality  # noqa: E741

SMALL = {
    "sysu": trees.small_sysu,
    "regdb": trees.regdb,
    "llcm": trees.llcm,
    "oulu": trees.faces,
    "buaa": trees.faces,
    "imagenet": trees.imagenet,
}


def cells(samples):
    """Number of images by (identity, modality, camera), in the order of their first image."""
    return list(Counter((s.identity, s.modality, s.camera) for s in samples).items())


SYSU_TRAIN = [
    *(((1, V, 1), 2), ((1, V, 2), 2), ((1, I, 3), 2)),
    *(((2, V, 4), 1), ((2, V, 5), 1), ((2, I, 6), 1)),
    *(((533, I, 3), 1), ((533, V, 5), 2)),
]
SYSU_TEST = [
    *(((6, V, 1), 11), ((6, V, 2), 2), ((6, I, 3), 2), ((6, V, 4), 2), ((6, V, 5), 2), ((6, I, 6), 2)),
    *(((10, V, 1), 2), ((10, V, 2), 2), ((10, I, 3), 2), ((10, V, 5), 2), ((10, I, 6), 2)),
]


@pytest.mark.parametrize(
    "root, naming",
    [
        ("SYSU-MM01", {}),
        ("cam7/my cam3 set", {"name": "{}.jpg", "folder": "{}"}),
        ("0001/cam", {"name": "{:07d}_longer name.jpeg", "folder": "{:06d}"}),
        ("bitmaps", {"name": "{:04d}.BMP", "image": trees.numbered_bmp}),
    ],
)
def test_sysu_by_parts_of_the_path(tmp_path, root, naming):
    trees.small_sysu(tmp_path / root, **naming)
    train, test = (load_dataset("sysu", tmp_path / root, split) for split in ("train", "test"))
    assert cells(train) == SYSU_TRAIN
    assert cells(test) == SYSU_TEST
    eleven = test[:11]  # 2 before 10 without leading zeros too: the number in the name is the number of the image
    assert [int(re.match("[0-9]+", s.path.name)[0]) for s in eleven] == list(range(1, 12))
    assert inference.image_numbers(test)[:13].tolist() == [*range(1, 12), 1, 2]


def test_regdb_halves_of_a_trial(tmp_path):
    tmp_path = tmp_path / "Thermal cam1"
    trees.regdb(tmp_path)
    train = load_dataset("regdb", tmp_path, "train_1")
    assert cells(train) == [((2, V, 1), 2), ((4, V, 1), 2), ((2, I, 2), 2), ((4, I, 2), 2)]
    assert [s.path.name[11:] for s in train[:3]] == ["v_00002_2.bmp", "v_00003_2.bmp", "v_00006_4.bmp"]
    assert cells(load_dataset("regdb", tmp_path, "test_1")) == cells(load_dataset("regdb", tmp_path, "train_2"))
    assert {s.identity for s in load_dataset("regdb", tmp_path, "test_1")} == {1, 3}
    with pytest.raises(InputError, match=r"split None: expected train_1 to .* has train_1, test_1, train_2, test_2"):
        load_dataset("regdb", tmp_path)


def test_llcm_lists_and_camera_folders(tmp_path):
    root = tmp_path / "cam5" / "visible cam"
    trees.llcm(root)
    train, test = (load_dataset("llcm", root, split) for split in ("train", "test"))
    assert cells(train) == [((1, V, 1), 1), ((1, V, 2), 1), ((4, V, 1), 1), ((1, I, 1), 1), ((4, I, 9), 1)]
    assert cells(test) == [
        *(((3, V, 1), 1), ((3, V, 2), 1), ((5, V, 1), 1), ((5, V, 2), 1)),
        *(((3, I, 1), 2), ((3, I, 9), 2), ((5, I, 1), 2), ((5, I, 9), 2)),
    ]
    # The public code sorts names by characters, and its seeds draw by that order.
    assert [s.path.name.split("_")[3] for s in test[4:6]] == ["f3195", "f995"]


def test_faces_by_the_lists_of_a_user(tmp_path):
    trees.faces(tmp_path)
    samples = load_dataset("oulu", tmp_path, "test")
    assert samples == load_dataset("buaa", tmp_path / "test.csv")
    assert [(s.identity, s.modality, s.camera) for s in samples[:3]] == [("P001", V, 1), ("P001", I, 2), ("P002", V, 1)]
    with pytest.raises(InputError, match=r"name the list.* there is test\..*columns path,label,modality"):
        load_dataset("oulu", tmp_path)
    with pytest.raises(InputError, match=r"no list train\.csv; there is test\."):
        load_dataset("oulu", tmp_path, "train")


def test_imagenet_class_folders(tmp_path):
    trees.imagenet(tmp_path)
    labels, classes = identity_labels(load_dataset("imagenet", tmp_path, "train"))
    assert (labels.tolist(), classes) == ([0, 0, 1, 1], ["n01440764", "n01443537"])
    assert load_dataset("imagenet-mini", tmp_path, "val") == load_dataset("imagenet", tmp_path, "val")
    (tmp_path / "val").rename(tmp_path / "away")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(trees.noise(0))  # as it is distributed
    with pytest.raises(InputError, match=r"val: no class folder .* expected val/<class>/<image> .* n01440764"):
        load_dataset("imagenet", tmp_path, "val")


def edit(file, old, new):
    def change(root):
        text = (root / file).read_bytes().decode()
        assert old in text
        (root / file).write_bytes(text.replace(old, new, 1).encode())

    return change


def link(name, target):
    def change(root):
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)

    return change


def move(name, new):
    return lambda root: (root / name).rename(root / new)


def both(*changes):
    return lambda root: [change(root) for change in changes]


BAD_TREES = {
    "no camera": ("sysu", "test", move("cam4", "kam4"), r"no folder cam4; expected cam1 to cam6"),
    "no list": ("sysu", "test", move("exp/test_id.txt", "x"), r"test_id\.txt: cannot read the list: No such file"),
    "empty list": ("sysu", "test", edit("exp/test_id.txt", "6,10", ","), r"test_id\.txt: no identity in it"),
    "word in a list": ("sysu", "test", edit("exp/test_id.txt", "10", "ten"), r"entry 2: bad identity 'ten'"),
    "identity twice": ("sysu", "train", edit("exp/val_id.txt", "533", "533,2"), "entry 2: identity 2 is listed alr"),
    "identity unseen": ("sysu", "test", edit("exp/test_id.txt", "10", "11"), "identity 11: it is listed, and no"),
    "no identity": ("sysu", "test", move("cam1/0006", "cam1/six"), r"cam1/six: the folder's name is not the number"),
    "number twice": ("sysu", "test", link("cam1/0006/1.png", "0001.jpg"), r"1\.png: it has the number of 0001\.jpg"),
    "link outwards": ("sysu", "test", link("cam1/0006/0001.jpg", "/etc/hosts"), r"0001\.jpg: the link leads to /etc"),
    "folder outwards": ("sysu", "test", link("cam1/0011", "/etc"), r"cam1/0011: the link leads to /etc, out of"),
    "link to nothing": ("sysu", "test", link("cam1/0006/0001.jpg", "9.jpg"), r"0001\.jpg: the link leads to nothing"),
    "not a trial": ("regdb", "test_11", move("idx", "idx"), "expected train_1 to train_10"),
    "row upwards": ("regdb", "test_1", edit("idx/test_visible_1.txt", "Visible/1", "../1"), "row 1: .* contains '..'"),
    "row without label": ("regdb", "test_1", edit("idx/test_visible_1.txt", " 0", ""), "row 1: .*a path and a label"),
    "label a word": ("regdb", "test_1", edit("idx/test_visible_1.txt", " 0", " man"), "row 1: bad label 'man'"),
    "two labels": ("regdb", "test_1", edit("idx/test_visible_1.txt", " 0", " 3"), "row 2: identity 1 has the label 0 "),
    "labels crossed": (
        *("regdb", "test_1", both(*[edit("idx/test_thermal_1.txt", " 0", " 1")] * 2)),
        r"test_thermal_1\.txt: row 1: label 1 is given to identity 1 here, and to 3 before",
    ),
    "other modality": (
        *("regdb", "test_1"),
        edit("idx/test_visible_1.txt", "Visible/1/male_front_v_00000", "Thermal/1/male_front_t_00008"),
        "row 1: .* lies in Thermal, and this is the list of visible images",
    ),
    "UTF-16": ("regdb", "test_1", edit("idx/test_visible_1.txt", "Visible", "\ufeffVisible"), None),
    "no camera in a name": (
        *("llcm", "train", both(move("vis/0001/0001_c01_s185535_f7010_vis.jpg", "vis/0001/1.jpg"),
                                edit("idx/train_vis.txt", "0001_c01_s185535_f7010_vis", "1"))),
        r"row 1: 1\.jpg: no camera in the name",
    ),
    "no camera folders": ("llcm", "test", move("test_nir", "nir_test"), "test_nir: no folder cam1"),
    "unknown modality": ("oulu", "test", edit("test.csv", "infrared", "NIR"), "row 3: unknown modality 'NIR'; expec"),
    "no WordNet number": ("imagenet", "val", move("val/n01443537", "val/dog"), "val/dog: the folder's name is no Word"),
}  # fmt: skip


@pytest.mark.parametrize("name, split, change, message", BAD_TREES.values(), ids=BAD_TREES)
def test_what_cannot_be_used_is_named(tmp_path, name, split, change, message):
    SMALL[name](tmp_path)
    change(tmp_path)
    if message is None:  # a byte order mark
        assert len(load_dataset(name, tmp_path, split)) == 8
        file = tmp_path / "idx" / "test_visible_1.txt"
        file.write_text(file.read_text("utf-8-sig"), "utf-16")
        message = r"test_visible_1\.txt: UTF-16, not UTF-8 text; save it as UTF-8"
    with pytest.raises(InputError, match=message):
        load_dataset(name, tmp_path, split)


def test_links_below_the_root_are_followed_and_loops_are_not(tmp_path):
    trees.small_sysu(tmp_path / "real")
    (tmp_path / "named").symlink_to("real")
    (tmp_path / "real" / "cam6").rename(tmp_path / "real" / "six")
    (tmp_path / "real" / "cam6").symlink_to("six")
    assert cells(load_dataset("sysu", tmp_path / "named", "test")) == SYSU_TEST
    (tmp_path / "real" / "cam6").unlink()
    (tmp_path / "real" / "six").rename(tmp_path / "outside")
    (tmp_path / "real" / "cam6").symlink_to("../outside")
    found = list_dataset("folder", tmp_path / "real")
    assert {str(s.path.relative_to(tmp_path / "real"))[:4] for s in found.samples} == {f"cam{k}" for k in range(1, 6)}
    assert "cam6: the link leads to" in str(found.problems[0])

    (tmp_path / "real" / "cam1" / "0006" / "back").symlink_to("..")
    assert "back: the link leads back" in "".join(map(str, list_dataset("folder", tmp_path / "real").problems))


WORDS = [
    *(b"..", b"../../secret.jpg", b"out/secret.jpg", b"/etc/passwd", b"link.jpg", b"\0", b"\xff", b"\xef\xbb\xbf"),
    *(b"\r\n", b"\n", b",", b" ", b"\t", b'"', b"'", b"-1", b"1e9", b"9" * 400, b"\xc2\xb2", b"\xe2\x80\xa8", b"NaN"),
    *(b"visible", b"infrared", b"x" * 70_000, b"Visible/1", b"cam1", b"\\", b"%s{}", b"~", b".", b"//", b"loop.jpg"),
]
LISTS = {
    ("csv", None): "manifest.csv",
    ("oulu", "test"): "test.csv",
    ("regdb", "test_1"): "idx/test_thermal_1.txt",
    ("llcm", "train"): "idx/train_vis.txt",
    ("llcm", "test"): "idx/test_id.txt",
    ("sysu", "train"): "exp/val_id.txt",
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 4)):
        a, b = sorted(draw.randrange(len(data) + 1) for _ in "ab")
        b = min(b, a + 12)
        kind = draw.randrange(8)
        if kind < 3:
            data = data[:a] + draw.choice(WORDS) + data[b if kind else a :]
        elif kind == 3:
            data = data[:a] + bytes(draw.randrange(256) for _ in range(3)) + data[b:]
        elif kind == 4:
            data = data[: max(a, b)]
        elif kind == 5:
            rows = data.split(b"\n")
            data = b"\n".join(draw.choices(rows, k=len(rows)))  # some twice, some not at all, in another order
        elif kind == 6:
            data = data.replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n"]))
        elif draw.random() < 0.2:
            data = data.decode("latin-1").encode(draw.choice(["utf-16", "utf-16-le", "utf-32"]))
    return data


@pytest.mark.parametrize("name, split", LISTS, ids=[f"{name}-{split}" for name, split in LISTS])
def test_any_list_gives_images_below_the_root_or_an_input_error(tmp_path, name, split):
    """TOPLIGHT_EXAMPLES lists in all, 10,000 unless it says otherwise."""
    root = tmp_path / "root"
    SMALL.get(name, trees.faces)(root)
    if name == "csv":
        rows = (root / "test.csv").read_text().replace("label", "identity").splitlines()
        (root / "manifest.csv").write_text("".join(f"{row},{'1' if k else 'camera'}\n" for k, row in enumerate(rows)))
    (tmp_path / "secret.jpg").write_bytes(trees.noise(0))
    (root / "out").symlink_to(tmp_path)
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    valid, draw = (root / LISTS[name, split]).read_bytes(), random.Random(f"{name} {split}")
    refused = accepted = 0
    for _ in range(int(os.environ.get("TOPLIGHT_EXAMPLES", 10_000)) // len(LISTS) + 1):
        (root / LISTS[name, split]).write_bytes(mutated(valid, draw))
        try:
            listing = list_dataset(name, root, split)
        except InputError as error:
            assert Path(LISTS[name, split]).name in str(error) and len(str(error)) < 1000
            refused += 1
            continue
        trees.check_listing(root, listing)
        accepted += not listing.problems
    assert refused and accepted


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("timm", reason="timm is not installed (extra: train)")
    pytest.importorskip("nvidia.dali", reason="DALI is not installed (extra: train)")
    import torch

    from toplight_ext import models

    torch.manual_seed(0)
    return models.create_model("mobilenetv3_small_100", slices=(2, 2), groups=64).eval()


FACES = "faces infrared->visible, image-level CMC, all pairs verified"


@pytest.mark.parametrize(
    "name, trained, arguments, protocol, counts",
    [
        # 10 identity 6 and 10 before cameras 3 and 6; one image of seven identities and cameras
        ("sysu", "train", ["--permutations", "agw"], "SYSU-MM01 all-search 1-shot, AGW seeds", (10, 8, 8, 7)),
        ("regdb", "train_2", [], "RegDB visible->infrared, image-level CMC", (1, 4, 4, 4)),
        ("llcm", "train", [], "LLCM infrared->visible, AGW seeds, same identity and camera filtered", (10, 8, 8, 4)),
        ("oulu", None, ["--split", "test"], FACES, (1, 3, 3, 3)),
        ("buaa", None, ["--split", "test"], FACES, (1, 3, 3, 3)),
    ],
)
def test_from_the_folder_to_the_scores(name, trained, arguments, protocol, counts, network, tmp_path, capsys):
    from toplight_ext import models

    SMALL[name](tmp_path / name)
    weights = tmp_path / "w.safetensors"
    models.save_weights(weights, network, size=(64, 32), trained_on={"dataset": name, "split": trained})
    given = ["--weights", str(weights), "--dataset", name, "--root", str(tmp_path / name), *arguments, "--json"]
    assert main(["evaluate", *given]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["protocol"] == protocol
    assert tuple(record[key] for key in ("trials", "queries", "valid_queries", "gallery")) == counts
    assert record["images"] == [name, "test_2" if name == "regdb" else "test"]
    of_export = deploy._evaluation_set(parser().parse_args(["export", "--out", str(tmp_path), *given]))
    assert len(of_export[0]) > 0 and of_export[1].name == protocol, "what an export is compared on is the same"
