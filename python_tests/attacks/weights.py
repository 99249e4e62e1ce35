"""Attacks by weights: pickles with code, checkpoints and safetensors files that lie about what they hold."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toplight_ext import inference, models
from toplight_ext.deploy import load_network

from .confined import Attacks, Read, command, lay_no_file
from .zeros import add_zeros

ATTACKS = Attacks()
NAME = "mobilenetv3_small_100"
_ENTRY = "toplight_ext"


class Code:
    """Runs when it is unpickled: makes the file `ran` in the folder `outside`."""

    def __init__(self, folder: Path, through: str = "os.system"):
        self._ran, self._through = folder.parent / "outside" / "ran", through

    def __reduce__(self):
        if self._through == "eval":
            return eval, (f"open({str(self._ran)!r}, 'w')",)
        return os.system, (f"touch '{self._ran}'",)


def _convert(path: Path) -> Read:
    return functools.partial(models.create_agw, path)


@ATTACKS.each({str(protocol): (protocol,) for protocol in range(6)})
def pickle_with_code(folder: Path, protocol: int) -> Read:
    """A .pt that is a pickle of protocol {} which runs a command."""
    (folder / "agw.pt").write_bytes(pickle.dumps({"state_dict": Code(folder)}, protocol))
    return _convert(folder / "agw.pt")


@ATTACKS.each({"os.system": ("os.system", True), "eval": ("eval", True), "legacy eval": ("eval", False)})
def checkpoint_with_code(folder: Path, through: str, zipped: bool) -> Read:
    """A checkpoint that torch.save wrote, with a call of {} among its tensors."""
    content = {"net": {"classifier.weight": torch.zeros(3, 4), "x": Code(folder, through)}}
    torch.save(content, folder / "agw.pt", _use_new_zipfile_serialization=zipped)
    return _convert(folder / "agw.pt")


@ATTACKS
def pickle_as_safetensors(folder: Path) -> Read:
    """A pickle that runs a command, under the ending .safetensors."""
    (folder / "w.safetensors").write_bytes(pickle.dumps(Code(folder)))
    return command("soup", "w.safetensors", "--out", "out.safetensors")


@ATTACKS
def tar_with_link(folder: Path) -> Read:
    """A checkpoint in torch's oldest form, a tar, whose member `storages` is a link to a pipe that never ends."""
    os.mkfifo(folder / "pipe")
    link = tarfile.TarInfo("storages")
    link.type, link.linkname = tarfile.SYMTYPE, str(folder / "pipe")
    with tarfile.open(folder / "agw.pt", "w") as tar:
        tar.addfile(link)
    return _convert(folder / "agw.pt")


def _pickled(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def _call(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes of a call."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def _integer(number: int) -> bytes:
    content = pickle.encode_long(number)
    return b"\x8a" + bytes([len(content)]) + content


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _archive(path: Path, program: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Path:
    """A checkpoint in torch's form, with this pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", program)
        file.writestr("a/byteorder", "little")
        for name, content in records.items():
            file.writestr(f"a/data/{name}", content)
        file.writestr("a/version", "3\n")
    return path


_LARGE = {
    "bytearray": _call("builtins", "bytearray", _integer(4 << 30)),
    "tensor": _call("torch", "FloatTensor", _integer(1 << 32)),
    "storage": _call("torch.storage", "UntypedStorage", _integer(1 << 40)),
    "numpy void": _call("numpy.core.multiarray", "scalar", _call("numpy", "dtype", _text("V2000000000"))),
}


@ATTACKS.each({name: (program,) for name, program in _LARGE.items()})
def memory_by_a_call(folder: Path, program: bytes) -> Read:
    """A checkpoint of a hundred bytes whose pickle asks for gigabytes by a call that torch allows: {}."""
    return _convert(_archive(folder / "agw.pt", _pickled(program)))


@ATTACKS
def memory_by_a_call_legacy(folder: Path) -> Read:
    """The same in the older form, which is no archive."""
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), _pickled(_LARGE["bytearray"])]
    (folder / "agw.pt").write_bytes(b"".join(parts))
    return _convert(folder / "agw.pt")


@ATTACKS
def pickle_before_an_archive(folder: Path) -> Read:
    """The same with a harmless archive behind the pickle, which torch does not see and others take for the file."""
    memory_by_a_call_legacy(folder)
    harmless = _archive(
        folder / "harmless.pt", _state(("classifier.weight", _tensor(1, (1, 1), (1, 1)))), **{"0": bytes(4)}
    )
    (folder / "agw.pt").write_bytes((folder / "agw.pt").read_bytes() + harmless.read_bytes())
    return _convert(folder / "agw.pt")


@ATTACKS.each({"twice": ("a/data.pkl",), "twice, in capitals": ("a/DATA.PKL",)})
def hidden_pickle(folder: Path, name: str) -> Read:
    """A checkpoint in which the pickle that takes gigabytes is there {}, beside one that does not."""
    harmless = _state(("classifier.weight", _tensor(1, (1, 1), (1, 1))))
    with zipfile.ZipFile(folder / "agw.pt", "w") as file:
        file.writestr(name, _pickled(_LARGE["bytearray"]))
        file.writestr("a/data.pkl", harmless)
        file.writestr("a/data/0", bytes(4))
        file.writestr("a/version", "3\n")
    return _convert(folder / "agw.pt")


def _persistent(key: str, numel: int, kind: str = "FloatStorage") -> bytes:
    return b"(" + _text("storage") + f"ctorch\n{kind}\n".encode() + _text(key) + _text("cpu") + _integer(numel) + b"tQ"


def _tensor(numel: int, size: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    """Opcodes of a tensor on a storage that is said to have `numel` numbers."""
    sizes, strides = (b"(" + b"".join(map(_integer, numbers)) + b"t" for numbers in (size, stride))
    rest = _integer(0) + sizes + strides + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return _call("torch._utils", "_rebuild_tensor_v2", _persistent(key, numel), rest)


def _state(*tensors: tuple[str, bytes]) -> bytes:
    return _pickled(b"}(" + b"".join(_text(name) + tensor for name, tensor in tensors) + b"u")


@ATTACKS
def storage_of_ten_gigabytes(folder: Path) -> Read:
    """A checkpoint of a kilobyte whose storage is said to have ten gigabytes."""
    program = _state(("classifier.weight", _tensor(10 << 28, (10 << 20, 256), (256, 1))))
    return _convert(_archive(folder / "agw.pt", program, **{"0": bytes(64)}))


@ATTACKS
def storage_of_ten_gigabytes_legacy(folder: Path) -> Read:
    """The same in the older form, which is no archive."""
    storage = (
        b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + _integer(10 << 28) + b"NtQ"
    )
    tensor = _call("torch._utils", "_rebuild_tensor_v2", storage, _integer(0), b"K\x04\x85", b"K\x01\x85", b"\x89}")
    head = [pickle.dumps(n, 2) for n in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    body = [_pickled(b"}(" + _text("classifier.weight") + tensor + b"u"), pickle.dumps(["0"], 2)]
    (folder / "agw.pt").write_bytes(b"".join([*head, *body, struct.pack("<q", 10 << 28)]))
    return _convert(folder / "agw.pt")


@ATTACKS
def expanded_tensor(folder: Path) -> Read:
    """A classifier of a billion identities that is one number, repeated by a stride of 0."""
    program = _state(("classifier.weight", _tensor(1, (10**9, 2048), (0, 0))))
    return _convert(_archive(folder / "agw.pt", program, **{"0": bytes(4)}))


@ATTACKS
def compressed_storage(folder: Path) -> Read:
    """A checkpoint of 1.5 MB, compressed, whose storage has 1.5 GB of zeros."""
    path = _archive(folder / "agw.pt", _state(("classifier.weight", _tensor(3 << 27, (3 << 17, 1024), (1024, 1)))))
    add_zeros(path, "a/data/0", 3 << 29)
    return _convert(path)


@ATTACKS.each(
    {
        "a number": ({"classifier.weight": torch.tensor(1.0)},),
        "keys that are numbers": ({1: torch.zeros(2), 2: torch.zeros(3)},),
        "sparse": ({"classifier.weight": torch.zeros(3, 4).to_sparse()},),
        "meta": ({"classifier.weight": torch.empty(10**9, 2048, device="meta")},),
        "no rows": ({"classifier.weight": torch.zeros(0, 2048)},),
        "a list": ([torch.zeros(3)],),
        "nested": ({"state_dict": {"model": {"net": {"classifier.weight": torch.zeros(3, 4)}}}},),
        "another method": ({"classifier.weight": torch.zeros(3, 2048), "NL_2.9.theta.weight": torch.zeros(1)},),
        "complex": ({"classifier.weight": torch.zeros(3, 2048, dtype=torch.complex64)},),
    }
)
def odd_checkpoint(folder: Path, content: Any) -> Read:
    """A checkpoint of AGW's code whose classifier is {}."""
    torch.save(content, folder / "agw.pt")
    return _convert(folder / "agw.pt")


@ATTACKS
def checkpoint_that_holds_itself(folder: Path) -> Read:
    """A checkpoint whose state dict holds itself, without end."""
    content: dict[str, Any] = {}
    content["state_dict"] = content
    torch.save(content, folder / "agw.pt")
    return _convert(folder / "agw.pt")


def _safetensors(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def _load(path: Path) -> Read:
    return functools.partial(models.load_weights, path)


_F32 = '"dtype":"F32"'
_HEADERS = {
    "2^63 bytes": (b"{}", 1 << 63),
    "2^64 - 1 bytes": (b"{}", (1 << 64) - 1),
    "90 MB of a file of 10 bytes": (b"{}", 90_000_000),
    "nothing": (b"", 0),
    "no JSON": (b"\x00" * 64, None),
    "no UTF-8": (b'{"\xff\xfe":{}}', None),
    "nested a hundred thousand deep": (b'{"a":' * 100_000, None),
    "a list": (b"[1,2]", None),
    "ten gigabytes": (f'{{"a":{{{_F32},"shape":[2684354560],"data_offsets":[0,10737418240]}}}}'.encode(), None),
    "offsets behind the end": (f'{{"a":{{{_F32},"shape":[4],"data_offsets":[1000,1016]}}}}'.encode(), None),
    "offsets that fall": (f'{{"a":{{{_F32},"shape":[4],"data_offsets":[16,0]}}}}'.encode(), None),
    "negative offsets": (f'{{"a":{{{_F32},"shape":[4],"data_offsets":[-16,0]}}}}'.encode(), None),
    "a shape that overflows": (
        f'{{"a":{{{_F32},"shape":[4294967296,4294967296,4],"data_offsets":[0,16]}}}}'.encode(),
        None,
    ),
    "an unknown type": (b'{"a":{"dtype":"O","shape":[2],"data_offsets":[0,16]}}', None),
    "a type of another size": (b'{"a":{"dtype":"F64","shape":[4],"data_offsets":[0,16]}}', None),
    "overlapping tensors": (
        f'{{"a":{{{_F32},"shape":[4],"data_offsets":[0,16]}},"b":{{{_F32},"shape":[4],"data_offsets":[0,16]}}}}'.encode(),
        None,
    ),
    "a name twice": (
        f'{{"a":{{{_F32},"shape":[4],"data_offsets":[0,16]}},"a":{{{_F32},"shape":[2,2],"data_offsets":[0,16]}}}}'.encode(),
        None,
    ),
    "metadata of 50 MB": (b'{"__metadata__":{"toplight_ext":"' + b"x" * 50_000_000 + b'"}}', None),
}


@ATTACKS.each(_HEADERS)
def safetensors_header(folder: Path, header: bytes, length: int | None) -> Read:
    """A safetensors file whose header says or holds {}."""
    return _load(_safetensors(folder / "w.safetensors", header, bytes(16), length))


@functools.cache
def saved() -> bytes:
    """A weights file as training leaves it."""
    torch.manual_seed(0)
    model = models.create_model(NAME, num_classes=3, neck="fdr", slices=(2, 1))
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"attacked-{os.getpid()}.safetensors"
    trained_on = [{"dataset": "synthetic", "split": "train"}]
    models.save_weights(path, model, stage="vi", recipe="r", trained_on=trained_on, size=[32, 16])
    content = path.read_bytes()
    path.unlink()
    return content


def changed_weights(
    path: Path,
    entry: Callable[[dict], Any] = lambda entry: entry,
    header: Callable[[dict], Any] = lambda header: header,
    text: str | None = None,
) -> Path:
    """A whole weights file but for what is changed in its own JSON entry, or in the header that it stands in."""
    (length,) = struct.unpack_from("<Q", saved())
    fields = json.loads(saved()[8 : 8 + length])
    fields["__metadata__"][_ENTRY] = text or json.dumps(entry(json.loads(fields["__metadata__"][_ENTRY])))
    return _safetensors(path, json.dumps(header(fields)).encode(), saved()[8 + length :])


def _with(*keys: str, value: Any) -> Callable[[dict], dict]:
    """A change of one key of nested dictionaries."""

    def change(fields: dict) -> dict:
        inner = fields
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return fields

    return change


_ARGUMENTS = {
    "num_classes 10^12": ("num_classes", 10**12),
    "num_classes 10^30": ("num_classes", 10**30),
    "num_classes -1": ("num_classes", -1),
    "num_classes as text": ("num_classes", "3"),
    "num_classes infinite": ("num_classes", math.inf),
    "slices 10^9": ("slices", [10**9, 10**9]),
    "slices 10^5": ("slices", [10**5, 10**5]),
    "slices as text": ("slices", "ab"),
    "slices nested": ("slices", [[1], [2]]),
    "slices null": ("slices", None),
    "groups 0": ("groups", 0),
    "groups as text": ("groups", "8"),
    "duplicated 10^9": ("duplicated", 10**9),
    "duplicated as text": ("duplicated", "1"),
    "duplicated half": ("duplicated", 0.5),
    "neck a list": ("neck", ["fdr"]),
    "neck large": ("neck", "fdr_mixing"),
    "name a path": ("name", "../../../../etc/passwd"),
    "name of a hub": ("name", "hf-hub:owner/name"),
    "name a number": ("name", 5),
    "pretrained": ("pretrained", "../outside/secret.pth"),
    "last_stride 0": ("last_stride", 0),
    "input_layer a list": ("input_layer", []),
}


@ATTACKS.each(_ARGUMENTS)
def model_arguments(folder: Path, name: str, value: Any) -> Read:
    """A whole weights file whose recorded network has {}."""
    return _load(changed_weights(folder / "w.safetensors", _with("model", name, value=value)))


@ATTACKS
def arguments_missing(folder: Path) -> Read:
    """Weights for a soup that do not say how many blocks are duplicated."""
    path = changed_weights(folder / "w.safetensors", _with("model", value={"name": NAME}))
    return command("soup", path, path, "--out", "out.safetensors")


@ATTACKS.each(
    {
        "nested a hundred thousand deep": ("[" * 100_000,),
        "no JSON": ("{",),
        "a number": ("3",),
        "a list": ('[["format", 1]]',),
        "an integer of a hundred thousand digits": ('{"format": ' + "9" * 100_000 + "}",),
    }
)
def own_entry(folder: Path, text: str) -> Read:
    """A weights file whose own JSON entry is {}."""
    return _load(changed_weights(folder / "w.safetensors", text=text))


_FED = {
    "size 10^9 x 10^9": ("size", [10**9, 10**9]),
    "size 10^5 x 10^5": ("size", [10**5, 10**5]),
    "size 0": ("size", [0, 0]),
    "size negative": ("size", [-32, 16]),
    "size as text": ("size", "ab"),
    "size a number": ("size", 3),
    "size of three": ("size", [1, 2, 3]),
    "size of halves": ("size", [32.5, 16.5]),
    "size missing": ("size", None),
    "mean NaN": ("mean", [math.nan] * 3),
    "mean as text": ("mean", "abc"),
    "std 0": ("std", [0.0, 0.0, 0.0]),
    "std infinite": ("std", [math.inf] * 3),
    "std of one": ("std", [1.0]),
    "gray as text": ("gray", "no"),
}


@ATTACKS.each(_FED)
def recorded_preprocessing(folder: Path, name: str, value: Any) -> Read:
    """Weights that want to be fed images of {}."""
    path = changed_weights(folder / "w.safetensors", _with("metadata", name, value=value))
    return lambda: load_network([path])


@ATTACKS.each(
    {
        "text": ("sysu train",),
        "a list": ([1, 2],),
        "without a split": ({"dataset": "sysu"},),
        "numbers": ({"dataset": 3, "split": 4},),
        "an endless number": ({"dataset": "regdb", "split": "train_" + "9" * 100_000},),
        "a list in a list": ([[{"dataset": "regdb", "split": "train_1"}]],),
        "a list as a name": ([{"dataset": ["regdb"], "split": "train_1"}],),
        "a million trials": ([{"dataset": "regdb", "split": f"train_{n}"} for n in range(1_000_000)],),
    }
)
def recorded_training_set(folder: Path, value: Any) -> Read:
    """Weights whose training set is {}."""
    path = changed_weights(folder / "w.safetensors", _with("metadata", "trained_on", value=value))
    return lambda: inference.origin_of(models.read_weights(path).metadata, "regdb", None).leaks


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Path]:
    from safetensors import safe_open
    from safetensors.torch import load, save_file

    def write(path: Path) -> Path:
        tensors = load(saved())
        change(tensors)
        (length,) = struct.unpack_from("<Q", saved())
        save_file(tensors, path, json.loads(saved()[8 : 8 + length])["__metadata__"])
        with safe_open(path, "pt"):
            return path

    return write


_FIRST = "visible.block1.conv_stem.weight"


@ATTACKS.each(
    {
        "NaN": (lambda state: state[_FIRST].fill_(math.nan),),
        "infinity": (lambda state: state[_FIRST].fill_(-math.inf),),
        "another shape": (lambda state: state.update({_FIRST: state[_FIRST].flatten()}),),
        "whole numbers": (lambda state: state.update({_FIRST: state[_FIRST].to(torch.int64)}),),
        "truth values": (lambda state: state.update({_FIRST: state[_FIRST] > 0}),),
        "complex numbers": (lambda state: state.update({_FIRST: state[_FIRST].to(torch.complex64)}),),
        "a name less": (lambda state: state.pop(_FIRST),),
        "a name with a terminal's commands": (lambda state: state.update({"\x1b]0;owned\x07\u202e": torch.zeros(1)}),),
        "a name of a million letters": (lambda state: state.update({"x" * 1_000_000: torch.zeros(1)}),),
    }
)
def tensors(folder: Path, change: Callable) -> Read:
    """Weights with {} in a tensor."""
    return command("soup", _tensors(change)(folder / "w.safetensors"), "--out", "out.safetensors")


@ATTACKS.each({"a pipe": ("pipe",), "a folder": ("folder",), "an endless device": ("/dev/zero",)})
def no_file(folder: Path, kind: str) -> Read:
    """Weights that are {}."""
    path = folder / "w.safetensors"
    lay_no_file(path, kind)
    return command("soup", "w.safetensors", "--out", "out.safetensors")


@ATTACKS.each({str(place): (place,) for place in (0, 7, 8, 100, 20_000, -1)})
def truncated(folder: Path, place: int) -> Read:
    """A weights file that ends at byte {}."""
    (folder / "w.safetensors").write_bytes(saved()[:place])
    return _load(folder / "w.safetensors")


def warm(folder: Path) -> None:
    """What a user may well have: read once, so that what it loads is not counted against the attacks."""
    (folder / "w.safetensors").write_bytes(saved())
    network, fed = load_network([folder / "w.safetensors"])
    assert fed.size == (32, 16)
    assert inference.origin_of(models.read_weights(folder / "w.safetensors").metadata, "synthetic", None).training
    content = io.BytesIO()
    torch.save({"net": network.state_dict(), "acc": np.float64(0.5)}, content)
    (folder / "agw.pt").write_bytes(content.getvalue())
    assert len(models.tensor_files.read_checkpoint(folder / "agw.pt")) == len(network.state_dict())
