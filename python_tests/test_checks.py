"""What is found wrong with a run before anything is written; what a run that goes on still needs, and from where."""

import dataclasses
import shutil

import pytest
from tiny_run import write_tiny_recipe

pytest.importorskip("PIL", reason="Pillow is not installed (extra: train)")

import numpy as np
import trees

from toplight_ext import training
from toplight_ext.errors import InputError
from toplight_ext.models import create
from toplight_ext.training import installed_recipes, load_recipe, runner
from toplight_ext.training.checks import check_recipe
from toplight_ext.training.recipe_files import load_row, with_absolute_paths

V, I = "visible", "infrared"  # noqa: E741


@pytest.fixture
def unstarted(tmp_path, monkeypatch):
    """The folder of a run whose recipe has relative paths, as it is before its first stage."""
    write_tiny_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    overrides = ["data.root=drawn", "test.root=drawn", "data.cache=cache", "vi.epochs=1"]
    overrides += ["evaluation.flip=true", "evaluation.cmc=identities"]
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_finish", lambda *arguments: None)
        training.start(load_recipe("vi.toml", overrides), tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "run"


def test_a_run_goes_on_from_another_working_directory_on_its_own_data(unstarted):
    (result,) = training.resume(unstarted).results
    assert result["valid_queries"] == 18 and result["flip"] and "distinct-identity CMC" in result["protocol"]
    assert list((unstarted.parent / "cache").glob("decoded-*")) and not list(unstarted.parent.glob("elsewhere/*"))


def test_a_run_that_goes_on_draws_no_data(unstarted):
    shutil.rmtree(unstarted.parent / "drawn")
    with pytest.raises(InputError, match=r"drawn/train/manifest\.csv: no such .*\[data\]; it is .*/run/recipe\.toml"):
        training.resume(unstarted)
    assert not (unstarted.parent / "drawn").exists()


def test_a_run_that_goes_on_needs_what_is_left_alone(unstarted, monkeypatch):
    """A stage that is trained, and is not evaluated yet: the data that it saw may be gone, and later all of it."""
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_evaluate", lambda *arguments: None)
        training.resume(unstarted)
    shutil.rmtree(unstarted.parent / "drawn" / "train")
    assert training.resume(unstarted).results
    shutil.rmtree(unstarted.parent / "drawn")
    assert training.resume(unstarted).results


def test_every_path_of_a_recipe_is_made_absolute_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [f"{table}.root=agw" for table in ("data", "test", "pretraining_data")]
    overrides += ["data.cache=c", "weights=w", "model.pretrained=p", "dev={name='csv', root='d'}"]
    overrides += ["evaluation.permutations=m"]
    recipe = with_absolute_paths(load_recipe("sysu", overrides))
    assert {recipe.data.root, recipe.test.root, recipe.pretraining_data.root} == {f"{tmp_path}/agw"}
    paths = recipe.data.cache, recipe.weights, recipe.model.pretrained, recipe.dev.root, recipe.evaluation.permutations
    assert paths == tuple(f"{tmp_path}/{name}" for name in "cwpdm")
    absolute = load_recipe("sysu", [f"{table}.root=/x" for table in ("data", "test", "pretraining_data")])
    seeded = dataclasses.replace(absolute, evaluation=dataclasses.replace(absolute.evaluation, permutations="agw"))
    assert seeded.model.pretrained is True and with_absolute_paths(seeded) == seeded


@pytest.fixture
def sysu(tmp_path):
    """Check the last stage of the method on a small tree, with these overrides."""
    trees.small_sysu(tmp_path / "sysu")

    def check(*overrides, evaluation="{protocol='all', permutations='agw'}"):
        sets = [f"{name}={{name='sysu', root='{tmp_path / 'sysu'}'}}" for name in ("data", "test")]
        splits = ["data.split=train", "test.split=test"]
        small = ["top=false", "soup=false", "model.pretrained=false", "vi.identities=2"]
        check_recipe(load_recipe("toplight", [*sets, *splits, *small, f"evaluation={evaluation}", *overrides]))

    return check


def manifest(root, modalities) -> str:
    root.mkdir()
    rows = [(f"{k}.jpg", k // 2, modality, 1) for k, modality in enumerate(modalities)]
    for k in range(len(rows)):
        (root / f"{k}.jpg").write_bytes(trees.noise(k))
    trees.table(root / "manifest.csv", [("path", "identity", "modality", "camera"), *rows])
    return f"{{name='csv', root='{root}'}}"


def test_the_dev_split_of_sysu_may_be_its_own_or_another_set(sysu, tmp_path, capsys):
    own = f"dev={{name='sysu', root='{tmp_path / 'sysu'}', split='val'}}"
    look = "evaluation.every_epochs=1"
    sysu(own, look, "data.split=train_only")
    assert capsys.readouterr().err == ""
    sysu(own, look)
    assert capsys.readouterr().err.startswith("[dev] has 3 images that [data] trains on")  # those of identity 533
    sysu(f"dev={manifest(tmp_path / 'other', [V, I, V, I])}", look)
    with pytest.raises(InputError, match=r"the modality infrared.*the recipe's \[dev\] or \[evaluation\]"):
        sysu(f"dev={manifest(tmp_path / 'one', [V, V])}", look)
    with pytest.raises(InputError, match=r"none of the 2 queries has.*the recipe's \[dev\]"):
        sysu(f"dev={manifest(tmp_path / 'apart', [V, V, I, I])}", look)
    with pytest.raises(InputError, match=r"nowhere.*the recipe's \[dev\]"):
        sysu("dev={name='csv', root='nowhere'}", look)
    sysu("dev={name='csv', root='nowhere'}")  # nobody looks


def test_what_the_protocol_lacks_in_the_test_images_is_found(sysu, tmp_path):
    with pytest.raises(InputError, match=r"2 images are too few for 10 shots .*\[test\] or \[evaluation\]"):
        sysu("evaluation.shots=10")
    scipy_io = pytest.importorskip("scipy.io", reason="SciPy is not installed")
    cameras = np.empty((6, 1), object)
    for camera in range(6):
        cameras[camera, 0] = np.empty((10, 1), object)
        for identity in range(10):
            cameras[camera, 0][identity, 0] = np.tile(np.arange(1, 3), (10, 1))
    scipy_io.savemat(tmp_path / "other.mat", {"rand_perm_cam": cameras})
    with pytest.raises(InputError, match="camera 1, identity 6: 11 features, where the permutations know 2 images"):
        sysu(f"evaluation.permutations='{tmp_path / 'other.mat'}'")
    with pytest.raises(InputError, match=r"no feature has the modality infrared.*\[test\]"):
        sysu(f"test={manifest(tmp_path / 'one', [V, V])}", evaluation="{}")


def test_table_8_runs_with_the_weights_that_its_first_row_asks_for(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    trees.faces(tmp_path / "faces")
    shutil.copy(tmp_path / "faces" / "test.csv", tmp_path / "faces" / "train.csv")
    trees.imagenet(tmp_path / "imagenet")
    light = create.create_backbone("lightcnn29", create.find_partition("lightcnn29"))
    torch.save(light.state_dict(), tmp_path / "light.pth")
    loaded, build = [], create._from_package

    def without_download(package, partition, name, pretrained):
        loaded.append((name, pretrained))
        return build(package, partition, name, False)

    monkeypatch.setattr(create, "_from_package", without_download)
    overrides = [f"{table}.root='{tmp_path / 'faces'}'" for table in ("data", "test")]
    overrides += [f"pretraining_data.root='{tmp_path / 'imagenet'}'", "top.batch_size=4", "vi.identities=2"]
    rows = [path for name, path in installed_recipes().items() if name.startswith("table8/")]
    for path in rows:
        check_recipe(load_row(path, [*overrides, f"model.pretrained='{tmp_path / 'light.pth'}'"]))
    assert loaded[0] == ("mobilenetv3_large_100", True)
    with pytest.raises(InputError, match=r"lightcnn29 has no weights .*model\.pretrained.* the path of a checkpoint"):
        check_recipe(load_row(rows[0], overrides))

    def no_network(*arguments):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(create, "_from_package", no_network)
    with pytest.raises(InputError, match=r"cannot be loaded \(no route to host\); give .*model\.pretrained"):
        check_recipe(load_row(rows[2], overrides))
