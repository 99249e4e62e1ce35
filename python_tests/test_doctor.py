"""`toplight doctor` on machines that are not this one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from packaging.requirements import Requirement

import toplight_ext
from toplight_ext import _library, doctor
from toplight_ext.toml import parse_toml

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def brought(extra: str) -> set[str]:
    """The packages that an extra installs under this Python."""
    extras = parse_toml(PYPROJECT.read_text())["project"]["optional-dependencies"]
    asked = [Requirement(text) for text in extras[extra]]
    ours = [inner for each in asked if each.name == "toplight_ext" for inner in each.extras]
    others = {
        each.name for each in asked if each.name != "toplight_ext" and (not each.marker or each.marker.evaluate())
    }
    return others.union(*map(brought, ours))


@pytest.mark.skipif(not PYPROJECT.is_file(), reason="pyproject.toml is not beside the tests")
def test_every_package_is_in_the_extra_that_is_said_to_bring_it():
    for name, _, extra in doctor.PACKAGES:
        assert extra is None or name in brought(extra), name


@pytest.mark.skipif(not PYPROJECT.is_file(), reason="pyproject.toml is not beside the tests")
@pytest.mark.parametrize("extra", ["train", "train-cuda12", "export", "openvino", "executorch", "faiss"])
def test_every_package_of_an_extra_is_looked_for(extra):
    assert brought(extra) <= {name for name, _, _ in doctor.PACKAGES}


def without_a_library(folder):
    """A copy of the package with a file that is no library."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "kernels", "recipes")
    shutil.copytree(Path(toplight_ext.__file__).parent, folder / "toplight_ext", ignore=ignored)
    (folder / "toplight_ext" / "libtoplight_ops.so").write_bytes(b"not a library")


def test_without_a_library_it_says_why_and_what_to_do(tmp_path):
    without_a_library(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "toplight_ext.cli", "doctor", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for devices in found["backends"].values():
        row = devices["cpu"]
        assert row["backend"] == "reference" and row["better"].keys() == {"native", "triton"}
        assert "libtoplight_ops.so does not load under torch" in row["better"]["native"]
    assert found["cpu"]["library"] is None and found["cpu"]["error"] == row["reason"]
    assert [lack["get"] for lack in found["missing"] if "for the CPU" in lack["what"]] == [
        "in the checkout: pip install --no-deps --force-reinstall ."
    ]
    text = doctor.diagnosis_text(found)
    assert text.count("does not load under torch") <= 4, "a reason that all ops share is said once for a device"


@pytest.fixture
def other_machine(monkeypatch):
    """Sets what torch was built for, whether it sees a GPU, the driver, and which packages there are."""

    def describe(cuda, sees_gpu, driver, packages=()):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_gpu)
        monkeypatch.setattr(doctor, "_driver", lambda: driver)
        monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name in packages else None)
        monkeypatch.setattr(_library, "cuda", _library.Library(None, "there is no such library"))
        return {what: get for what, get in doctor._missing()}

    return describe


def test_a_gpu_without_kernels_is_told_how_to_get_them(other_machine):
    missing = other_machine(cuda="12.8", sees_gpu=True, driver="580.65")
    command = "with nvcc of CUDA 12.8 on PATH, in the checkout: TOPLIGHT_CUDA=ON pip install --no-deps"
    assert missing["the compiled kernels for the GPU: there is no such library"].startswith(command)
    assert missing["triton (Triton kernels on a GPU)"] == "pip install triton"
    assert missing["nvidia-dali-cuda120 (image pipelines (CUDA 12))"] == "pip install 'toplight_ext[train-cuda12]'"
    assert not any("nvidia-dali-cuda130" in what for what in missing)


def test_what_does_not_fit_the_machine_is_named(other_machine, monkeypatch):
    assert "a torch with CUDA, for the GPU of this machine" in other_machine(None, False, "580.65")
    assert any("a driver for CUDA 13.0" in what for what in other_machine("13.0", False, "450.80"))
    everything = [name for name, _, _ in doctor.PACKAGES]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    assert other_machine("13.0", False, None, everything) == {}
    monkeypatch.setitem(sys.modules, "torchvision", None)  # its import fails
    ((what, get),) = other_machine("13.0", False, None, everything).items()
    assert what.startswith(f"a torchvision that fits torch {torch.__version__}: ")
    assert get == "pip install -U torchvision"


def test_versions_come_from_the_programs(tmp_path, monkeypatch):
    for name, script in {
        "nvidia-smi": "echo 580.65.06; echo 580.65.06",
        "nvcc": "echo 'Cuda compilation tools, release 13.0, V13.0.88'",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert (doctor._driver(), doctor._nvcc()) == ("580.65.06", "13.0")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert doctor._driver() is None


def test_ops_that_are_served_differently_are_named():
    native = {"backend": "native", "reason": "compiled", "better": {}}
    plain = {"backend": "reference", "reason": "no kernel", "better": {"native": "no kernel", "triton": "no triton"}}
    lines = doctor._reasons({"a": {"cpu": native}, "b": {"cpu": plain}})
    assert lines == ["a: on cpu native: compiled", "b: on cpu reference: no kernel\n  not triton: no triton", ""]
