"""Writes the folder of every data set as its authors lay it out, with tiny images: small, or with the true numbers.

The numbers of the small trees are written down in the tests that use them.
"""

import csv
import functools
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from toplight_ext.data.samples import Listing

SYSU_INFRARED = (3, 6)


def noise(number: int, format: str = "JPEG", size=(16, 32), mode="RGB", **options) -> bytes:
    """An image file that is different for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, format, **options)
    return stream.getvalue()


def commented(number: int) -> bytes:
    """As `noise`, and a thousand times quicker: one JPEG with the number in a comment."""
    data = _one_jpeg()
    return data[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + data[2:]


def numbered_bmp(number: int) -> bytes:
    """RegDB's format: one BMP with the number in its first pixels."""
    data = bytearray(_one_bmp())
    data[54:58] = number.to_bytes(4, "big")
    return bytes(data)


@functools.cache
def _one_jpeg() -> bytes:
    return noise(0)


@functools.cache
def _one_bmp() -> bytes:
    return noise(0, "BMP")


def sysu(root: Path, images, lists, image=noise, name="{:04d}.jpg", folder="{:04d}") -> None:
    """SYSU-MM01.

    images: (camera, identity) -> number of images.
    lists: "train", "val", "test" -> identities.
    """
    _lists(root / "exp", lists)
    for camera in range(1, 7):
        (root / f"cam{camera}").mkdir(parents=True, exist_ok=True)
    count = 0
    for (camera, identity), number in images.items():
        below = root / f"cam{camera}" / folder.format(identity)
        below.mkdir()
        for k in range(1, number + 1):
            (below / name.format(k)).write_bytes(image(count := count + 1))


def small_sysu(root: Path, **options) -> None:
    """Training identities 1, 2 and 533, test identities 6 and 10; 3 is in no list, and 10 passed no camera 4."""
    images = {(camera, 1): 2 for camera in (1, 2, 3)} | {(camera, 2): 1 for camera in (4, 5, 6)}
    images |= {(3, 533): 1, (5, 533): 2, (1, 3): 1}
    images |= {(camera, 6): 11 if camera == 1 else 2 for camera in range(1, 7)}
    images |= {(camera, 10): 2 for camera in (1, 2, 3, 5, 6)}
    sysu(root, images, {"train": [1, 2], "val": [533], "test": [6, 10]}, **options)


def regdb(root: Path, identities=4, images=2, trials=2, image=numbered_bmp) -> None:
    """RegDB: identities from 1, in trial t the odd ones or the even ones train; the label counts up from 0."""
    count = 0
    paths = {}
    for modality, letter in (("Visible", "v"), ("Thermal", "t")):
        for identity in range(1, identities + 1):
            (root / modality / str(identity)).mkdir(parents=True)
            for _ in range(images):
                path = f"{modality}/{identity}/male_front_{letter}_{count:05d}_{identity}.bmp"
                (root / path).write_bytes(image(count := count + 1))
                paths.setdefault((modality, identity), []).append(path)
    (root / "idx").mkdir()
    for trial in range(1, trials + 1):
        for half in ("train", "test"):
            chosen = range(1 + (trial + (half == "test")) % 2, identities + 1, 2)
            for modality in ("Visible", "Thermal"):
                rows = [f"{path} {label}\n" for label, i in enumerate(chosen) for path in paths[modality, i]]
                (root / "idx" / f"{half}_{modality.lower()}_{trial}.txt").write_text("".join(rows))


def llcm(root: Path) -> None:
    """LLCM: training identities 1 and 4 before camera 1, one with two visible images; test identities 3 and 5.

    Every test identity has a visible image of cameras 1 and 2, and two infrared ones of cameras 1 and 9.
    """
    names = {
        "vis": ["0001_c01_s185535_f7010_vis.jpg", "0001_c02_s185535_f993_vis.jpg", "0004_c01_s1_f7_vis.jpg"],
        "nir": ["0001_c01_s200656_f4830_nir.jpg", "0004_c09_s200656_f12_nir.jpg"],
    }
    count = 0
    for word, files in names.items():
        rows = [f"{word}/{name[:4]}/{name} {('0001', '0004').index(name[:4])}\n" for name in files]
        (root / "idx").mkdir(parents=True, exist_ok=True)
        (root / "idx" / f"train_{word}.txt").write_text("".join(rows))
        for row in rows:
            _write(root / row.split()[0], noise(count := count + 1))
    for identity in (3, 5):
        for word, cameras, frames in (("vis", (1, 2), ("3195",)), ("nir", (1, 9), ("3195", "995"))):
            for camera in cameras:
                for frame in frames:
                    name = f"{identity:04d}_c{camera:02d}_s185734_f{frame}_{word}.jpg"
                    path = root / f"test_{word}" / f"cam{camera}" / f"{identity:04d}" / name
                    _write(path, noise(count := count + 1))
    (root / "idx" / "test_id.txt").write_text("3,5\n")


def faces(root: Path, people=("P001", "P002", "P003")) -> None:
    """Faces with a list of the user's own, test.csv: a visible and a near-infrared image of everybody."""
    rows = []
    for k, person in enumerate(people):
        for light, modality in (("VL", "visible"), ("NI", "infrared")):
            path = f"{light}/Strong/{person}/Happiness/000.jpeg"
            _write(root / path, noise(2 * k + (light == "NI")))
            rows.append((path, person, modality))
    table(root / "test.csv", [("path", "label", "modality"), *rows])


def imagenet(root: Path) -> None:
    """Two classes, with two images each to train on and one to validate."""
    for k, name in enumerate(("n01440764", "n01443537")):
        for number in (10026, 7):
            _write(root / "train" / name / f"{name}_{number}.JPEG", noise(10 * k + number))
        _write(root / "val" / name / f"ILSVRC2012_val_{k:08d}.JPEG", noise(k))


def table(file: Path, rows) -> None:
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def _lists(folder: Path, lists) -> None:
    folder.mkdir(parents=True)
    for split, identities in lists.items():
        (folder / f"{split}_id.txt").write_text(",".join(map(str, identities)) + "\n")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def check_listing(root: Path, listing: Listing) -> None:
    """Every image once, all of them files below the root; problems that name a place in it, in few words."""
    paths = [sample.path for sample in listing.samples]
    assert len(set(paths)) == len(paths) and all(map(Path.is_file, paths))
    assert all(os.path.realpath(path).startswith(f"{root}/") for path in paths)
    assert all(str(root) in problem.where and len(problem.what) < 1000 for problem in listing.problems)


def full_sysu(root: Path, protocol: Path) -> None:
    """SYSU-MM01 with its true numbers, which are the lengths of the official permutations.

    Those of the identities that both lists leave, and that have images of both modalities, are the validation's.
    """
    import scipy.io

    cameras = scipy.io.loadmat(protocol / "rand_perm_cam.mat")["rand_perm_cam"].ravel()
    cells = {(c, i): cell for c, camera in enumerate(cameras, 1) for i, cell in enumerate(camera.ravel(), 1)}
    images = {key: cell.shape[1] for key, cell in cells.items() if cell.size}
    train, test = (scipy.io.loadmat(protocol / f"{half}_id.mat")["id"].ravel().tolist() for half in ("train", "test"))
    infrared = {identity for camera, identity in images if camera in SYSU_INFRARED}
    visible = {identity for camera, identity in images if camera not in SYSU_INFRARED}
    val = sorted((infrared & visible) - {*train, *test})
    sysu(root, images, {"train": train, "val": val, "test": test}, image=commented)


def full_regdb(root: Path) -> None:
    """RegDB with its true numbers; its halves are the odd and the even identities."""
    regdb(root, identities=412, images=10, trials=10)
