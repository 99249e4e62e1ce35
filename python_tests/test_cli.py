"""The command `toplight` as a user meets it: exit codes, the JSON line, and what errors say."""

import json
import subprocess
import sys

import numpy as np
import pytest

from toplight_ext import data, models
from toplight_ext.cli import main


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli") / "drawn"
    data.draw_synthetic(root, identities=3, dev_identities=4, views=2, size=(64, 32))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    models.save_weights(path, models.create_model("mobilenetv3_small_100", slices=(2, 2), groups=64), size=(64, 32))
    return path


def test_doctor_tells_backends_and_versions(capsys):
    assert main(["doctor", "--json"]) == 0
    found = last_json(capsys)
    assert found["backends"]["slice_pool"]["cpu"]["backend"] == "native"
    assert found["packages"]["torch"] and found["build"]["torch_version"]
    assert main(["doctor"]) == 0
    assert "shuffle_attention" in capsys.readouterr().out


def test_data_check_counts_and_fails_on_a_broken_image(drawn, capsys, tmp_path):
    assert main(["data", "check", "csv", str(drawn / "dev"), "--json"]) == 0
    assert last_json(capsys)["identities"] == 4
    broken = tmp_path / "broken"
    data.draw_synthetic(broken, identities=2, dev_identities=1, views=1, size=(64, 32))
    (broken / "dev" / "visible" / "00002" / "0.jpg").write_bytes(b"")
    assert main(["data", "check", "csv", str(broken / "dev")]) == 1
    assert "00002/0.jpg" in capsys.readouterr().out


def test_evaluate_from_weights_and_from_the_saved_features(drawn, weights, capsys, tmp_path):
    saved = tmp_path / "features.npz"
    arguments = ["--dataset", "csv", "--protocol", "infrared->visible", "--json"]
    root = ["--root", str(drawn), "--split", "dev"]
    assert main(["evaluate", "--weights", str(weights), *root, "--save-features", str(saved), *arguments]) == 0
    first = last_json(capsys)
    assert first["valid_queries"] == 8 and 0 <= first["r1"] <= 1
    assert main(["evaluate", "--features", str(saved), *arguments]) == 0
    assert last_json(capsys) == first


def test_features_do_not_depend_on_the_batch_size(drawn, weights, tmp_path):
    rows = []
    for batch_size in ("1", "16"):
        saved = tmp_path / f"{batch_size}.npz"
        command = ["evaluate", "--weights", str(weights), "--dataset", "csv", "--root", str(drawn), "--split", "dev"]
        assert main([*command, "--batch-size", batch_size, "--save-features", str(saved)]) == 0
        rows.append(np.load(saved)["features"])
    assert np.abs(rows[0] - rows[1]).max() < 1e-5 * np.abs(rows[0]).max()


def test_soup_of_weights_is_their_mean(weights, tmp_path, capsys):
    assert main(["soup", str(weights), str(weights), "--out", str(tmp_path / "soup.safetensors")]) == 0
    soup, single = (models.read_weights(path).state for path in (tmp_path / "soup.safetensors", weights))
    assert soup.keys() == single.keys()
    assert all(np.array_equal(soup[key].numpy(), single[key].numpy()) for key in soup)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["train", "roadscene", "--set", "vi.epochz=3"], "unknown key 'vi.epochz'"),
        (["resume", "nowhere"], "holds no run"),
        (["evaluate", "--weights", "nowhere.safetensors", "--dataset", "csv"], "--root"),
        (["evaluate", "--features", "nowhere.npz", "--dataset", "csv"], "nowhere.npz"),
        (["evaluate", "--features", "nowhere.npz", "--dataset", "sysu"], "--permutations"),
        (["data", "check", "csv", "nowhere"], "nowhere"),
        (["data", "check", "sysu2", "nowhere"], "no data set 'sysu2'"),
        (["report", "nowhere"], "nowhere"),
        (["soup", "nowhere.safetensors", "--out", "soup.safetensors"], "nowhere.safetensors"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_argparse_errors_exit_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--dataset", "csv"])
    assert stop.value.code == 2


def test_without_extras_the_doctor_runs_and_train_names_its_extra():
    program = (
        "import sys\n"
        "for name in ('timm', 'torchvision', 'nvidia', 'safetensors', 'matplotlib', 'rich', 'PIL', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from toplight_ext.cli import main\n"
        "assert main(['doctor']) == 0\n"
        "sys.exit(main(['train', 'roadscene']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "toplight train: " in done.stderr and "pip install 'toplight_ext[train]'" in done.stderr


def test_import_is_light():
    """No optional package and no compiler stack is loaded by the import alone."""
    heavy = ("timm", "torchvision", "nvidia.dali", "triton", "matplotlib", "PIL", "scipy", "torch._dynamo", "sympy")
    program = f"import torch, sys; before = set(sys.modules); import toplight_ext; " \
        f"print([n for n in {heavy!r} if n in sys.modules and n not in before])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
