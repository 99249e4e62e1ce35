"""Protocols by the words of the command line and of recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InputError
from .llcm import LLCM
from .protocols import Direction, Faces, Generic, Protocol, RegDB
from .ranking import Cmc
from .sysu import SysuMM01, load_permutations

AGW = "agw"
_DEEN = "deen:"
_GENERIC = ("csv", "folder", "synthetic")


def parse_protocol(
    dataset: str,
    protocol: str | None = None,
    shots: int = 1,
    permutations: str | Path | None = None,
    *,
    same_camera_filter: bool = False,
    camera_pairs: Sequence[tuple[int, int]] = (),
    cmc: Cmc = "images",
) -> Protocol:
    """The protocol that the words of the command line name.

    Args:
        dataset: sysu, regdb, llcm, oulu, buaa, or csv, folder, synthetic for the generic protocol.
        protocol: for sysu all (default) or indoor; for oulu and buaa nothing; else the direction, infrared->visible
            or visible->infrared, which is the default of regdb; for llcm also deen:visible->infrared.
        shots: for sysu, 1 or 10.
        permutations: for sysu, the file rand_perm_cam.mat, or agw for the seeds of AGW's public code.
        same_camera_filter, camera_pairs, cmc: for the generic protocol, as `Generic` says.

    Raises:
        InputError: words that name no protocol; rules given to a protocol that has its own; permutations
            missing or unreadable.
    """
    rules = {"same_camera_filter": same_camera_filter, "camera_pairs": tuple(camera_pairs), "cmc": cmc}
    if dataset != "sysu" and (shots != 1 or permutations is not None):
        raise InputError(f"{dataset}: shots and permutations belong to sysu alone; leave them out")
    if dataset in _GENERIC:
        return Generic(*Direction.parse(protocol or "infrared->visible"), **rules)
    if rules != {"same_camera_filter": False, "camera_pairs": (), "cmc": "images"}:
        raise InputError(f"{dataset} has camera and CMC rules of its own: leave yours out, or evaluate it as csv")
    if dataset == "sysu":
        return _sysu(protocol, shots, permutations)
    if dataset not in _BY_DIRECTION:
        known = ", ".join((*_GENERIC, "sysu", *_BY_DIRECTION))
        raise InputError(f"no protocol for data set {dataset!r}: expected {known}")
    return _BY_DIRECTION[dataset](protocol)


def _sysu(mode: str | None, shots: int, permutations: str | Path | None) -> SysuMM01:
    if permutations is None:
        raise InputError(
            "sysu needs --permutations: rand_perm_cam.mat of the official evaluation code, or agw for the seeds of "
            "AGW's public code, which draw other galleries"
        )
    drawn = None if str(permutations) == AGW else load_permutations(permutations)
    return SysuMM01(mode or "all", shots, drawn)


def _regdb(protocol: str | None) -> RegDB:
    return RegDB(*Direction.parse(protocol or "visible->infrared"))


def _llcm(protocol: str | None) -> LLCM:
    named = protocol or "infrared->visible"
    return LLCM(*Direction.parse(named.removeprefix(_DEEN)), deen=named.startswith(_DEEN))


def _faces(protocol: str | None) -> Faces:
    if Direction.parse(protocol or "infrared->visible") != Faces.direction:
        raise InputError(f"protocol {protocol!r}: faces are evaluated {Faces.direction}")
    return Faces()


_BY_DIRECTION: dict[str, Callable[[str | None], Protocol]] = {
    "regdb": _regdb,
    "llcm": _llcm,
    "oulu": _faces,
    "buaa": _faces,
}
