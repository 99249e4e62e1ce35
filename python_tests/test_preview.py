"""The preview shows the images that training sees, and those that they are made from."""

import numpy as np
import pytest

from toplight_ext.cli import main
from toplight_ext.data import (
    Augmentation,
    Colour,
    CrossModalitySampler,
    Generic,
    ImagePipeline,
    Modality,
    Sample,
    Stream,
    Texture,
    draw_synthetic,
)
from toplight_ext.inference import Preprocessing
from toplight_ext.report.preview import Panel, preview_picture

pytest.importorskip("nvidia.dali")
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

SIZE = (200, 100)  # as large as images are drawn, so that their pixels stand in the picture
SEED = 4
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder, draw, samples = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for i in range(16):
        low = Image.fromarray(draw.integers(256, size=(9, 7, 3), dtype=np.uint8))
        low.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        samples.append(Sample(folder / f"{i}.png", f"walker {i // 4}", list(Modality)[i % 2], 1))
    return samples


def shows(picture: np.ndarray, image: np.ndarray) -> bool:
    """Whether uint8 `image` (h, w, 3) stands somewhere in `picture`, pixel by pixel."""
    height, width = image.shape[:2]
    for y in np.flatnonzero([image[0].tobytes() in row.tobytes() for row in picture[:-height]]):
        x = picture[y].tobytes().find(image[0].tobytes()) // 3
        if np.array_equal(picture[y : y + height, x : x + width], image):
            return True
    return False


@pytest.mark.parametrize("share_geometry", [False, True])
def test_shows_files_and_the_first_batch_of_training(samples, tmp_path, share_geometry):
    sampler = CrossModalitySampler(samples, 3, 2, seed=SEED)
    texture = Texture(gray_probability=1.0)
    paths = (Augmentation(colour=Colour()), Augmentation(Generic(), texture=texture))
    streams = (
        Stream(samples, lambda step: sampler.batch(step)[0], paths, share_geometry),
        Stream(samples, lambda step: sampler.batch(step)[1], (Augmentation(),)),
    )
    names = (("path 1", "path 2"), ("infrared",))
    panel = Panel("A panel", names, streams, Preprocessing(SIZE, MEAN, STD))
    picture = np.asarray(Image.open(preview_picture([panel], tmp_path / "new" / "grid.png", SEED, rows=3)))

    (batch,) = ImagePipeline(streams, SIZE, steps=1, seed=SEED, mean=MEAN, std=STD)
    first = [0, 2, 4]  # one of each identity, of which the batch has two images
    mean, std = np.float32(MEAN), np.float32(STD)
    seen = [view[first].permute(0, 2, 3, 1).numpy() * std + mean for stream in batch.images for view in stream]
    expected = [np.uint8(np.clip(np.rint(255 * image), 0, 255)) for view in seen for image in view]
    expected += [np.asarray(Image.open(samples[i].path)) for rows in batch.indices for i in rows[first]]
    assert len(expected) == 15 and all(shows(picture, image) for image in expected)
    assert not any(shows(picture, np.asarray(Image.open(samples[rows[1]].path))) for rows in batch.indices)


def test_command_draws_all_stages_of_a_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_synthetic("synthetic", identities=8, dev_identities=2, size=(64, 32))
    roots = ["--set", "data.root=synthetic", "--set", "pretraining_data.root=synthetic/train"]
    settings = ["--set", "top.batch_size=4", "--set", "pretrain.batch_size=4", "--set", "vi.identities=4"]

    def preview(*arguments) -> int:
        return main(["data", "preview", "demo", "--out", "grid.png", *roots, *settings, *arguments])

    assert preview("--rows", "2") == 0
    assert capsys.readouterr().out == "grid.png\n"
    narrow = Image.open("grid.png")
    assert (narrow.mode, narrow.height) == ("RGB", 526)
    # The stage that sees grey alone has one column more; so has one that erases.
    assert preview("--rows", "2", "--set", "vi.gray=true", "--set", "vi.visible.erasing={}") == 0
    assert Image.open("grid.png").width == narrow.width + 2 * 106
    assert preview("--rows", "2", "--set", "vi.mirrored_identities=true") == 0  # raw images are those of the files
    assert Image.open("grid.png").size == narrow.size

    before = (tmp_path / "grid.png").read_bytes()
    assert preview("--rows", "0") == 2
    assert preview("--set", "vi.identities=9") == 2
    assert "9 identities x 2 images cannot be drawn" in capsys.readouterr().err
    assert (tmp_path / "grid.png").read_bytes() == before and not list(tmp_path.glob(".*"))
