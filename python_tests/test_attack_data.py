"""Data sets of strangers: nothing outside of their folder is read, nothing waits, and an error names the file."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("PIL", reason="Pillow is not installed (extra: train)")

from attacks import images, lists
from attacks.confined import MOST_MIB, MOST_SECONDS, let_loose

from toplight_ext import cli

SLOW = ("limit.png",)  # left to the long form


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    lists.warm(tmp_path_factory.mktemp("warm"))


@pytest.mark.parametrize("attack", lists.ATTACKS, ids=lambda attack: attack.name)
def test_list(attack, tmp_path):
    outcome = let_loose(attack, tmp_path)
    assert outcome.crash is None and outcome.touched == []
    assert outcome.refused or outcome.result == repr(lists.READ)
    assert outcome.seconds < MOST_SECONDS and outcome.mib < MOST_MIB
    assert "hunter2" not in outcome.said and "\x1b" not in outcome.said and len(outcome.said) < 5000
    assert not outcome.refused or str(tmp_path) in outcome.said


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """What checking and training say of all images, in a process of their own."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed (extra: train)")
    command = [sys.executable, images.__file__, tmp_path_factory.mktemp("images"), *SLOW]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return {line["way"]: line for line in map(json.loads, ended.stdout.splitlines())}


@pytest.mark.parametrize("way", ["check", "train"])
def test_images(ways, way):
    expected = {image.name: image.refused for image in images.IMAGES if image.refused}
    said = ways[way]["said"]
    assert said.keys() == expected.keys()
    assert {name: words for name, words in expected.items() if words not in said[name]} == {}
    assert ways[way]["mib"] < MOST_MIB and ways[way]["seconds"] < 60


def test_embed_and_match_name_the_image(tmp_path, capsys):
    pytest.importorskip("timm", reason="timm is not installed (extra: train)")
    pytest.importorskip("nvidia.dali", reason="DALI is not installed (extra: train)")
    from toplight_ext import models

    models.save_weights(
        tmp_path / "w.safetensors", models.create_model("mobilenetv3_small_100", neck="gap"), size=(32, 16)
    )
    network = ["--weights", str(tmp_path / "w.safetensors")]
    known = {image.name: image for image in images.IMAGES}
    for name in ("archive.jpg", "svg.jpg", "two_frames.jpg"):
        path = tmp_path / name
        path.write_bytes(known[name].make())
        embed = ["embed", str(path), *network, "--modality", "visible", "--out", str(tmp_path / "f.npz")]
        match = ["match", str(path), str(tmp_path / "f.npz"), *network, "--query-modality", "visible"]
        for command in (embed, match):
            code, said = cli.main(command), capsys.readouterr().err
            assert code == 0 if known[name].refused is None else (code == 2 and f"{path}: " in said)
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".tmp")]
