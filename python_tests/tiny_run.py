"""A whole run, small enough to be started many times: all four stages on a few drawn images."""

import os
import signal
import sys
from pathlib import Path

import torch

from toplight_ext import data, models, training
from toplight_ext.training.loop import Training

RECIPE = """
name = "tiny"
size = [32, 16]
threads = 1
data = {{ name = "synthetic", root = "{root}", split = "train" }}
test = {{ name = "synthetic", root = "{root}", split = "dev" }}
pretraining_data = {{ name = "folder", root = "{root}/train", split = "visible" }}
[model]
backbone = "mobilenetv3_small_100"
slices = [2, 2]
[pretrain]
epochs = 1
batch_size = 8
[top]
epochs = 2
batch_size = 8
path1 = {{ colour = {{}} }}
path2 = {{ texture = {{}} }}
[soup]
statistics_batches = 2
[vi]
epochs = 2
identities = 4
images_per_identity = 2
infonce_weight = 1.0
"""


# One short stage of it.
ONLY_VI = RECIPE[: RECIPE.index("[pretrain]")] + RECIPE[RECIPE.index("[vi]") :]


def write_tiny_recipe(folder: Path) -> Path:
    """Draw the images into the folder, write both recipes beside them, and return the path of the whole one."""
    data.draw_synthetic(folder / "drawn", identities=8, dev_identities=6, views=3, size=(32, 16))
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(root=folder / "drawn"), encoding="utf-8")
    path.with_name("vi.toml").write_text(ONLY_VI.format(root=folder / "drawn"), encoding="utf-8")
    return path


def assert_same_outcome(run: Path, other: Path) -> None:
    """Logs and weights of two run folders are the same to the bit, and so are the results."""
    for name in ("metrics.jsonl", "evaluation.json", "ranked.json", "analysis.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    for path in sorted(other.glob("*.safetensors")):
        ours, theirs = models.read_weights(run / path.name), models.read_weights(path)
        assert ours.metadata == theirs.metadata and ours.state.keys() == theirs.state.keys(), path.name
        assert all(torch.equal(ours.state[key], theirs.state[key]) for key in theirs.state), path.name


def signal_after(stage: str, step: int, number: int) -> None:
    """Let this process send itself a signal when it has taken that step of that stage."""
    take = Training.take

    def take_then_signal(self, *arguments):
        before = self._step
        take(self, *arguments)
        if (self.stage.name, before) == (stage, step):
            os.kill(os.getpid(), number)

    Training.take = take_then_signal


def main(recipe: str, out: str, stage: str, step: str, *overrides: str) -> None:
    """Start a run that process 1 leaves without a word after a step."""
    if os.environ.get("RANK") == "1":
        signal_after(stage, int(step), signal.SIGKILL)
    try:
        training.start(training.load_recipe(recipe, overrides), Path(out))
    except training.TrainingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
