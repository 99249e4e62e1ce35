"""Attacks by data sets: lists and folders that lead elsewhere, do not end, or are not what their names say."""

from __future__ import annotations

import csv
import os
import socket
from collections.abc import Callable
from pathlib import Path

import trees

from toplight_ext.data import load_dataset

from .confined import Attacks, Read, command

ATTACKS = Attacks()
READ = "read as what it is"  # what reading gives where there is nothing to be refused
_COLUMNS = ("path", "identity", "modality", "camera")


def _images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(trees.noise(number))


def _secret(folder: Path) -> Path:
    """An image beside the folder that is given, which nothing may read."""
    _images(folder.parent / "outside", "secret.jpg")
    return folder.parent / "outside"


def _manifest(folder: Path, *rows: tuple) -> Read:
    """Checks a manifest of these rows, below a good one."""
    _images(folder, "0.jpg")
    trees.table(folder / "manifest.csv", [_COLUMNS, ("0.jpg", 1, "visible", 1), *rows])
    return command("data", "check", "csv", folder)


@ATTACKS.each(
    {
        "dots": ("../outside/secret.jpg",),
        "dots within": ("x/../../outside/secret.jpg",),
        "a link": ("link.jpg",),
        "a linked folder": ("out/secret.jpg",),
        "a link to itself": ("loop.jpg",),
        "two links in a circle": ("a.jpg",),
        "a NUL": ("0.jpg\0.jpg",),
        "a line end": ("0\n.jpg",),
        "the root itself": (".",),
        "9,999 characters": ("x/" * 4999 + "x",),
        "5,000 folders": ("./" * 5000 + "../outside/secret.jpg",),
    }
)
def path(folder: Path, path: str) -> Read:
    """A manifest names an image outside of its folder, or none, by {}."""
    _secret(folder)
    (folder / "link.jpg").symlink_to("../outside/secret.jpg")
    (folder / "out").symlink_to("../outside")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "a.jpg").symlink_to("b.jpg")
    (folder / "b.jpg").symlink_to("a.jpg")
    return _manifest(folder, (path, 2, "visible", 1))


@ATTACKS
def absolute_path(folder: Path) -> Read:
    """A manifest names an image of another folder by its absolute path."""
    return _manifest(folder, (_secret(folder) / "secret.jpg", 2, "visible", 1))


_LISTS = {
    "manifest.csv": (trees.faces, "csv"),
    "test.csv": (trees.faces, "oulu"),
    "exp/test_id.txt": (trees.small_sysu, "sysu"),
    "idx/test_visible_1.txt": (trees.regdb, "regdb"),
    "idx/train_vis.txt": (trees.llcm, "llcm"),
}


def _lay(folder: Path, name: str) -> str:
    """The data set that has this list; its name."""
    tree, dataset = _LISTS[name]
    tree(folder)
    if dataset == "csv":
        (folder / "test.csv").rename(folder / name)
    return dataset


@ATTACKS.each({name: (name,) for name in _LISTS})
def linked_list(folder: Path, name: str) -> Read:
    """The list {} is a link to a file of passwords, which an error might repeat."""
    dataset = _lay(folder, name)
    secret = folder.parent / "outside" / "passwords"
    (folder / name).unlink()
    secret.write_text("root:hunter2,root:hunter2\n")
    (folder / name).symlink_to(secret)
    return command("data", "check", dataset, folder)


@ATTACKS.each({name: (name,) for name in _LISTS})
def endless_list(folder: Path, name: str) -> Read:
    """The list {} is a pipe, into which nobody writes."""
    dataset = _lay(folder, name)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    return command("data", "check", dataset, folder)


@ATTACKS.each({"test_vis": ("llcm", trees.llcm, "test_vis"), "cam1": ("sysu", trees.small_sysu, "cam1")})
def linked_folder(folder: Path, dataset: str, tree: Callable[[Path], None], name: str) -> Read:
    """The images of one camera lie in another folder, to which {} is a link."""
    tree(folder)
    (folder / name).rename(folder.parent / "outside" / name)
    (folder / name).symlink_to(folder.parent / "outside" / name)
    return command("data", "check", dataset, folder)


@ATTACKS
def linked_split(folder: Path) -> Read:
    """The split of a manifest is a link to another folder with a manifest."""
    _manifest(_secret(folder))
    (folder / "train").symlink_to("../outside")
    return command("data", "check", "csv", folder, "--split", "train")


@ATTACKS
def linked_class(folder: Path) -> Read:
    """A class folder is a link to another folder of images."""
    _secret(folder)
    _images(folder, "train/hat/0.jpg")
    (folder / "train" / "sock").symlink_to("../../outside")
    return command("data", "check", "folder", folder)


@ATTACKS
def circle_of_folders(folder: Path) -> Read:
    """A class folder holds a link to itself, so that it never ends."""
    _images(folder, "train/hat/0.jpg")
    (folder / "train" / "hat" / "deeper").symlink_to(".")
    return command("data", "check", "folder", folder)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    os.chdir(path.parent)  # an address has at most 108 characters
    socket.socket(socket.AF_UNIX).bind(path.name)


_STRANGE = {
    "a pipe": (_pipe,),
    "a socket": (_socket,),
    "a folder": (Path.mkdir,),
    "a link to /dev/zero": (lambda path: path.symlink_to("/dev/zero"),),
    "a file of 10 GB": (lambda path: _sparse(path, b"\xff\xd8", 10 << 30),),
}


@ATTACKS.each(_STRANGE)
def strange_image(folder: Path, make: Callable[[Path], object]) -> Read:
    """What a manifest calls an image is {}."""
    make(folder / "evil.jpg")
    return _manifest(folder, ("evil.jpg", 2, "visible", 1))


@ATTACKS.each(_STRANGE)
def strange_image_through_a_link(folder: Path, make: Callable[[Path], object]) -> Read:
    """An image in a class folder is a link to {} beside it."""
    _images(folder, "train/hat/0.jpg")
    make(folder / "train" / "hat" / "evil")
    (folder / "train" / "hat" / "evil.jpg").symlink_to("evil")
    return command("data", "check", "folder", folder)


def _sparse(path: Path, begin: bytes, size: int) -> None:
    with open(path, "wb") as file:
        file.write(begin)
        file.truncate(size)


@ATTACKS.each({name: (name,) for name in _LISTS})
def one_line(folder: Path, name: str) -> Read:
    """The list {} is one line of a gigabyte, of which the disk has a kilobyte."""
    dataset = _lay(folder, name)
    _sparse(folder / name, (folder / name).read_bytes()[:-1], 1 << 30)
    return command("data", "check", dataset, folder)


@ATTACKS.each(
    {
        "commas": (lambda file: file.write(b"," * 20_000_000),),
        "a field of 20 MB": (lambda file: file.write(b"x" * 20_000_000),),
        "a quoted field over 20 million lines": (lambda file: file.write(b'"' + b"\n" * 20_000_000),),
        "quoted line ends in 10 million fields": (lambda file: file.write(b'"\n",' * 10_000_000),),
        "a million rows without an image": (lambda file: file.write(b"x.jpg,1,visible,1\n" * 1_000_000),),
        "a million times one image": (lambda file: file.write(b"0.jpg,1,visible,1\n" * 1_000_000),),
        "10 million rows of one letter": (lambda file: file.write(b"x\n" * 10_000_000),),
    }
)
def long_manifest(folder: Path, write: Callable) -> Read:
    """A manifest that takes memory and time by {}."""
    read = _manifest(folder)
    with open(folder / "manifest.csv", "ab") as file:
        write(file)
    return read


@ATTACKS.each({"letters": (b"x\n", 10_000_000), "numbers in one line": (b"123456789 ", 5_000_000)})
def long_identities(folder: Path, text: bytes, times: int) -> Read:
    """A list of identities that takes memory by millions of {}."""
    trees.small_sysu(folder)
    (folder / "exp" / "test_id.txt").write_bytes(text * times)
    return command("data", "check", "sysu", folder)


@ATTACKS.each(
    {
        "60,000 characters": ("x" * 60_000,),
        "a NUL at its end, which NumPy drops": ("1\0",),
        "a terminal's command": ("\x1b[2J",),
    }
)
def identity(folder: Path, name: str) -> Read:
    """An identity of {}."""
    return _manifest(folder, ("0.jpg", name, "visible", 1))


@ATTACKS.each(
    {
        "10^400": ("1" + "0" * 400,),
        "2^63": (str(1 << 63),),
        "digits of another script": ("٣",),
        "an exponent": ("1e9",),
        "a sign": ("-0",),
        "an underscore": ("1_0",),
        "infinity": ("inf",),
    }
)
def camera(folder: Path, number: str) -> Read:
    """A camera's number is {}."""
    return _manifest(folder, ("0.jpg", 1, "visible", number))


@ATTACKS
def huge_identities(folder: Path) -> Read:
    """Identities of 5,000 digits, which are kept apart as text."""
    names = ["9" * 200 + str(number) for number in range(2)]
    _images(folder, "1.jpg", "2.jpg")
    _manifest(folder, *((f"{k}.jpg", name, "visible", 1) for k, name in enumerate(names, start=1)))

    def read() -> str:
        assert [sample.identity for sample in load_dataset("csv", folder)] == ["1", *names]
        return READ

    return read


@ATTACKS.each(
    {"bytes that are no UTF-8": (b"\xff\xfe.jpg",), "a line end": (b"a\nb.jpg",), "an escape": (b"\x1b[2J.jpg",)}
)
def name(folder: Path, name: bytes) -> Read:
    """An image's name has {}, which a terminal would obey and no file of text can hold."""
    _images(folder, "train/hat/0.jpg")
    with open(os.fsencode(folder) + b"/train/hat/" + name, "wb") as file:
        file.write(trees.noise(1))
    return command("data", "check", "folder", folder)


@ATTACKS
def names_by_case(folder: Path) -> Read:
    """Class folders and images whose names are one where case does not count."""
    _images(folder, "train/Hat/a.jpg", "train/hat/a.jpg", "train/hat/A.jpg", "train/hat/a.JPG")

    def read() -> str:
        samples = load_dataset("folder", folder, "train")
        assert sorted(sample.identity for sample in samples) == ["Hat", "hat", "hat", "hat"]
        return READ

    return read


@ATTACKS
def cameras_by_case(folder: Path) -> Read:
    """Two folders of camera 1, whose images have the same numbers."""
    trees.small_sysu(folder)
    (folder / "CAM01" / "0006").mkdir(parents=True)
    (folder / "CAM01" / "0006" / "0001.jpg").write_bytes(trees.noise(99))
    return command("data", "check", "sysu", folder)


@ATTACKS.each(
    {
        "a formula": ('=HYPERLINK("http://example.org")',),
        "a quote that is not closed": ('"',),
        "quotes within": ('a"b"c',),
        "a separator of lines": ("a\u2028b",),
    }
)
def csv_text(folder: Path, text: str) -> Read:
    """A manifest whose path is {}."""
    with open(folder / "manifest.csv", "w", newline="") as stream:
        csv.writer(stream).writerow(_COLUMNS)
        stream.write(f"{text},1,visible,1\n")
    return command("data", "check", "csv", folder)


def warm(folder: Path) -> None:
    """A clean set, read once, so that what it loads is not counted against the attacks."""
    (folder / "clean").mkdir()
    assert _manifest(folder / "clean")().code == 0
    _images(folder / "clean", "train/hat/0.jpg")
