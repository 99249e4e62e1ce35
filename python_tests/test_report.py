"""Reports: right figures, nothing from outside let in or out, and whatever is missing said."""

import base64
import io
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from report_cases import HOSTILE, Image, Page, ranked_of, result, write_run

from toplight_ext.errors import InputError
from toplight_ext.report import ranked_picture, text_table, write_report
from toplight_ext.report.figures import binned
from toplight_ext.report.pictures import choose, thumbnail
from toplight_ext.report.run import Picture, Query, read_run
from toplight_ext.report.text import difference, duration, plain, rate

pytest.importorskip("matplotlib")


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "demo")


def test_page_holds_what_the_run_holds(run):
    path = write_report([run])
    assert path == run / "report.html"
    page = Page(path)
    page.assert_closed_to_the_outside()
    rows = page.rows()
    assert rows[2][:3] == [["SOUP"], ["33.3", "−0.8"], ["43.3", "−0.8"]]
    assert rows[3][0] == ["VI"] and rows[3][1] == ["41.3", "(best)", "+8.0"]
    assert rows[2][5] == ["40.5", "+0.5"]  # mAP
    assert [["VI"], ["1", "min", "57", "s"], ["96.4"], ["65", "%"]] in rows
    assert [["SOUP"], ["3.0", "s"], ["–"], ["2", "%"]] in rows
    assert [["torch"], ["2.14.1"]] in rows and [["gpu"], ["none"]] in rows
    assert "Protocol infrared → visible, cosine distance, 6 queries with a match, 1 trial." in page.text
    assert "400 steps in 40 epochs. Each point is the mean of 3 steps" in page.text
    assert 'name = "demo" [vi] epochs = 20' in page.text
    assert "Not all is here" not in page.text


def test_looks_at_the_dev_split_are_drawn_below_the_loss(tmp_path):
    folder = write_run(tmp_path / "run")
    assert "dev" not in Page(write_report([folder])).text
    lines = [{"stage": "vi", "step": step, "mAP": step / 1000} for step in (100, 400)]
    (folder / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "torn", encoding="utf-8")
    stages = {stage.name: stage for stage in read_run(folder).stages}
    np.testing.assert_array_equal(stages["vi"].looks, [[100, 400], [0.1, 0.4]])
    assert stages["top"].looks.shape == (2, 0)
    page = Page(write_report([folder]))
    assert page.text.count("mAP, %") == 1 and "dev.jsonl: 1 line could not be read." in page.text


def test_ranked_lists_show_images_with_words_and_signs(run):
    page = Page(write_report([run]))
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 6 * 11 + 1  # and an example of FDR's slices
    picture = Image.open(io.BytesIO(base64.b64decode(images[1]["src"].partition(",")[2])))
    assert picture.size == (32, 64)  # never enlarged
    np.testing.assert_allclose(np.asarray(picture)[32, 16], (20, 40, 235), atol=4)  # gallery image 1
    assert images[0]["alt"] == "Query: identity q0, infrared, camera 2"
    assert images[1]["alt"] == "Rank 1, right: identity g0, camera 1, distance 0.100"
    assert images[2]["alt"] == "Rank 2, wrong: identity g1, camera 1, distance 0.110"
    kinds = [a["class"] for tag, a in page.elements if tag == "li" and "class" in a]
    assert kinds.count("right") == 4 and kinds.count("wrong") == 56
    marks = [a["href"] for tag, a in page.elements if tag == "use" and a["href"] in ("#tick", "#cross")]
    assert marks.count("#tick") == 4 and marks.count("#cross") == 56
    assert "3 have a right first image and 3 a wrong one" in page.text
    assert page.text.count("right at rank 1") == 3 and "right at rank 3" in page.text
    assert page.text.count("none right among 10") == 2


def test_runs_side_by_side(tmp_path):
    first = write_run(tmp_path / "a" / "run")
    better = [result("top", 0.341, 0.4), result("vi", 0.45, 0.5, label="VI + another neck")]
    second = write_run(tmp_path / "b" / "run", 'name = "demo"\n\n[vi]\nepochs = 30\n', better)
    page = Page(write_report([first, second]))
    assert (first / "comparison.html").is_file() and not (first / "report.html").exists()
    page.assert_closed_to_the_outside()
    rows = page.rows()
    assert rows[1][:2] == [["1:", "demo", "(run)"], ["41.3"]]
    assert rows[2][:2] == [["2:", "demo", "(run)"], ["45.0", "(best)", "+3.7"]]
    assert [["TOP"], ["34.1"], ["34.1", "±0.0"]] in rows and [["SOUP"], ["33.3"], ["–"]] in rows
    assert [["vi.epochs"], ["20"], ["30"]] in rows
    assert [["vi"], ["41.3"], ["45.0", "+3.7"]] in rows  # by no one's words
    assert not any(row[0] == ["name"] for row in rows)  # the same in both


def test_features_and_slices(run):
    page = Page(write_report([run]))
    # Of the areas 3/4, 1/4, 0 and 0, 1/4, 3/4 the middle quarter is common.
    assert "4 pairs of one identity and 8 pairs of two" in page.text and "25.0 % of the two areas" in page.text
    assert "4 images on the first two principal components, which hold 61.0 and 27.0 %" in page.text
    said = [
        attributes["aria-label"] for tag, attributes in page.elements if tag == "svg" and "aria-label" in attributes
    ]
    assert any("the means of the modalities are 0.51 apart" in text for text in said)  # the root of 0.1² + 0.5²
    strips = [attributes["style"] for tag, attributes in page.elements if tag == "i" and "style" in attributes]
    assert strips == [f"--share:{share}%" for share in (50, 100, 25, 100, 100)]


def test_runs_that_differ_in_the_seed_are_averaged(tmp_path):
    recipe = 'name = "{}"\nseed = {}\n\n[vi]\nepochs = {}\n'
    runs = [  # in folders as `toplight ablate` names them, of which the last part says nothing of the recipe
        write_run(tmp_path / name / f"seed_{seed}", recipe.format(name, seed, epochs), [result("vi", 0.3, value)])
        for name, seed, epochs, value in (
            ("short", 0, 20, 0.40),
            ("short", 1, 20, 0.44),
            ("long", 0, 30, 0.52),
            ("long", 1, 30, 0.48),
        )
    ]
    rows = Page(write_report(runs)).rows()
    first = next(row for row in rows if row[0] == ["short", "(2", "seeds)"])
    second = next(row for row in rows if row[0] == ["long", "(2", "seeds)"])
    assert any(row[0] == ["4:", "long", "(seed_1)"] for row in rows)
    assert first[5] == ["42.0", "±", "2.8"]  # 2 * sqrt(2)
    assert second[5] == ["50.0", "±", "2.8", "(best)", "+8.0"]
    assert not any("seeds)" in row[0] for row in Page(write_report([runs[0], runs[2]])).rows())


def test_no_difference_is_taken_across_tests(tmp_path):
    results = [result("top", 0.3, 0.3), result("vi", 0.4, 0.4, protocol="visible->infrared")]
    page = Page(write_report([write_run(tmp_path / "run", results=results)]))
    assert page.rows()[2][:2] == [["VI"], ["40.0"]]
    assert "These figures come from different tests" in page.text
    assert "+10.0" not in text_table(results)


def test_hostile_text_is_shown_as_text(tmp_path):
    run = write_run(tmp_path / "run")
    ranked = json.loads((run / "ranked.json").read_text())
    for query, text in zip(ranked["queries"], HOSTILE[:6], strict=True):
        query.update(identity=text, camera=text, modality=text)
        query["gallery"][1].update(identity=text, camera=text, path="/nowhere/" + text.replace("/", "|"))
    (run / "ranked.json").write_text(json.dumps(ranked))
    results = [result("x", 0.1, 0.2, label=text, protocol=text, metric=text) | {"name": text} for text in HOSTILE]
    (run / "evaluation.json").write_text(json.dumps({"results": results}))
    lines = [{"stage": text, "step": k, "loss": 2.0, text: 1.0} for text in HOSTILE for k in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "recipe.toml").write_text("# " + "\n# ".join(HOSTILE[:3]) + "\n[<script>", encoding="utf-8")
    (run / "environment.json").write_text(json.dumps({text: text for text in HOSTILE}))
    strange = run.rename(tmp_path / "<script>alert(1)<")
    path = write_report([strange, strange], tmp_path / "out.html")
    page = Page(path)
    page.assert_closed_to_the_outside()
    text = page.text
    assert "</pre></bdi><script>document.title='owned'</script>" in text and "1: <script>alert(1)<" in text
    assert "evil\\u202egpj.exe" in text and "\u202e" not in page.source
    assert "line\\nbreak\\x00\\x1b[31m\\r&amp;" in text
    assert "$\\frac{a}{" in text
    assert "long" * 100 not in page.source
    assert path.stat().st_size < 3_000_000
    assert "\x1b" not in text_table(results) and text_table(results).count("\n") == len(HOSTILE)


def test_hostile_page_runs_nothing_in_a_browser_and_fits_a_narrow_window(tmp_path, chromium):
    results = [result("x", 0.1, 0.2, label=text) for text in HOSTILE]
    path = write_report([write_run(tmp_path / "run", recipe="# " + HOSTILE[0] + HOSTILE[1], results=results)])
    # Without the policy that forbids scripts, and with one of ours that measures: escaping alone must hold.
    measure = "<script>document.body.id = document.documentElement.scrollWidth</script></body>"
    source = re.sub(r"<meta http-equiv=.*?>", "", path.read_text(encoding="utf-8")).replace("</body>", measure)
    path.write_text(source, encoding="utf-8")
    page = chromium("--dump-dom", path, "--window-size=500,900")
    assert "<title>run · toplight_ext</title>" in page
    assert '<body id="500">' in page
    assert page.count("<script") == 1 and "owned" in page


def test_browser_draws_the_page_light_and_dark(run, chromium, tmp_path):
    path = write_report([run])
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
    for name, options, paper, frame in (
        ("light.png", (), (0xF6, 0xF7, 0xF9), (0x1A, 0x7F, 0x37)),
        ("dark.png", dark, (0x0F, 0x12, 0x16), (0x4C, 0xC7, 0x6A)),
    ):
        chromium(f"--screenshot={tmp_path / name}", path, "--window-size=1280,4000", *options)
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert tuple(pixels[2, 2]) == paper
        assert (pixels == frame).all(axis=2).sum() > 1000  # four green frames


@pytest.fixture
def chromium(tmp_path):
    """A function that runs headless Chromium on a page and returns its standard output."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on PATH, in which to open the report")

    def start(action: str, page: Path, *options: str) -> str:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += ["--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}", *options, action, page.as_uri()]
        return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout

    return start


def test_missing_files_are_said(run):
    missing = {
        "evaluation.json": "No evaluation yet.",
        "metrics.jsonl": "No step of training on record.",
        "ranked.json": "No ranked lists.",
        "analysis.json": "No analysis of the features.",
        "recipe.toml": "No recipe.",
        "environment.json": "No environment on record.",
    }
    for name in missing:
        (run / name).unlink()
    text = Page(write_report([run])).text
    for name, said in missing.items():
        assert f"{name} is missing." in text and said in text
    assert "soup 3.0 s" in text


def test_unfinished_run(run):
    (run / "stages.json").write_text(json.dumps([{"stage": "top", "seconds": 60.0, "images_per_second": 812.0}]))
    page = Page(write_report([run]))
    assert "Stage vi has not ended." in page.text and "Stage top" not in page.text
    assert [["VI"], ["not", "ended"], ["–"], ["–"]] in page.rows()
    assert "1 min 00 s1 of 2 stages" in page.text


@pytest.mark.parametrize(
    "broken",
    [
        {
            "evaluation.json": ('{"results": [', "evaluation.json is not valid JSON"),
            "ranked.json": ("[" * 100_000, "ranked.json is not valid JSON"),
            "analysis.json": ('{"slices": ', "analysis.json is not valid JSON"),
            "metrics.jsonl": ('{"step": 1, "loss": NaN}\n{"step": 2, "los', "metrics.jsonl: 1 line could not be read."),
            "recipe.toml": ("= 3", "recipe.toml is not valid TOML"),
            "environment.json": ('{"a": {"a": {"a": ' * 2000, "environment.json is not valid JSON"),
        },
        {
            "evaluation.json": ('{"results": 3}', "evaluation.json holds no result."),
            "ranked.json": ('{"queries": [1, {}, {"gallery": [2, {}]}]}', "ranked.json: 1 entry could not be read."),
            "analysis.json": (
                '{"distances": {"edges": [0, 1], "genuine": [1, 2], "impostor": [1, 2]}, "slices": [], '
                '"projection": {"x": [1e400], "y": [0], "variance": [1, 0], "modality": [3], "identity": [4]}}',
                "analysis.json: distances could not be read: lists that do not belong together.",
            ),
            "metrics.jsonl": ('[]\n{}\n{"step": "x"}\n', "metrics.jsonl: 3 lines could not be read."),
            "stages.json": ('[1, {}, {"stage": {}, "seconds": "3"}]', "has not ended."),
            "environment.json": ("[1]", "No environment on record."),
        },
    ],
)
def test_broken_files_are_said_and_the_rest_shown(run, broken):
    for name, (content, _) in broken.items():
        (run / name).write_text(content)
    page = Page(write_report([run]))
    for _, said in broken.values():
        assert said in page.text
    assert len([tag for tag, _ in page.elements if tag == "section"]) == 9


def test_numbers_of_any_kind_are_survived(run):
    odd = {"r1": "1", "r5": None, "r10": 1e400, "r20": True, "mAP": 10**400, "cmc": [0.1, "x"], "trials": 1e300}
    (run / "evaluation.json").write_text(json.dumps({"results": [odd, {"mAP": 0.5}]}))
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "loss": Infinity}\n{"step": 2, "loss": 1e308}\n{"step": 3, "loss": -1}'
    )
    page = Page(write_report([run]))
    assert page.rows()[:3] == [[["Stage"], ["mAP"]], [["evaluation"], ["–"]], [["evaluation"], ["50.0"]]]


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        write_report([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"not a run folder.*recipe\.toml"):
        write_report([tmp_path])
    with pytest.raises(InputError, match="at least one"):
        write_report([])


def test_same_run_gives_the_same_bytes(run, tmp_path):
    once, again = (write_report([run], tmp_path / name).read_bytes() for name in ("1.html", "2.html"))
    assert once == again


def test_older_report_survives_a_failed_write(run, tmp_path, monkeypatch):
    out = tmp_path / "out" / "report.html"
    older = write_report([run], out).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    (run / "recipe.toml").write_text("seed = 1\n")
    with pytest.raises(OSError, match="No space left"):
        write_report([run], out)
    assert out.read_bytes() == older and list(out.parent.iterdir()) == [out]


def test_images_that_are_none(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    Image.new("RGB", (9, 9)).save(tmp_path / "program.jpg", "GIF")  # stands for the formats that are not opened
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cut.jpg")
    os.truncate(tmp_path / "cut.jpg", 300)
    os.mkfifo(tmp_path / "pipe.jpg")
    said = {
        name: thumbnail(str(tmp_path / name), 64, 64) for name in ("bomb.png", "program.jpg", "cut.jpg", "pipe.jpg")
    }
    assert said == {
        "bomb.png": "too large",
        "program.jpg": "does not decode",
        "cut.jpg": "does not decode",
        "pipe.jpg": "no such file",
    }


def test_missing_image_leaves_a_place_with_its_name(run):
    (run / "images" / "3.png").unlink()
    page = Page(write_report([run]))
    places = [a for tag, a in page.elements if a.get("class") == "no-image"]
    assert len(places) == 6
    assert places[0]["aria-label"] == "Rank 3, wrong: identity g2, camera 1, distance 0.120 (no such file: 3.png)"


@pytest.mark.parametrize(
    ("right", "wrong", "most", "expected"),
    [
        (100, 100, 4, ([25, 75], [25, 75])),
        (100, 100, 5, ([16, 50, 83], [25, 75])),
        (1, 100, 5, ([0], [12, 37, 62, 87])),
        (9, 1, 5, ([1, 3, 5, 7], [0])),
        (2, 1, 12, ([0, 1], [0])),
        (0, 0, 12, ([], [])),
    ],
)
def test_choice_of_queries_is_even(right, wrong, most, expected):
    def query(identity: int, correct: bool) -> Query:
        image = Picture("q", str(identity), "1", "infrared")
        return Query(image, (Picture("g", "", "2", "visible", correct, 0.1),))

    mixed = [query(i, True) for i in range(right)] + [query(i, False) for i in range(wrong)]
    chosen = choose(mixed, most)
    assert tuple([int(q.picture.identity) for q in half] for half in chosen) == expected
    assert all(q.gallery[0].correct for q in chosen[0]) and not any(q.gallery[0].correct for q in chosen[1])


def test_curves_stand_for_all_points():
    steps = np.arange(400.0)
    values = np.random.default_rng(0).normal(size=400)
    values[[5, 6, 399]] = np.nan
    at, mean, least, most = binned(steps, values)
    finite = ~np.isnan(values)
    kept = [(steps[finite][i : i + 3], values[finite][i : i + 3]) for i in range(0, 397, 3)]
    np.testing.assert_allclose(at, [s.mean() for s, _ in kept])
    np.testing.assert_allclose(mean, [v.mean() for _, v in kept])
    assert least.tolist() == [v.min() for _, v in kept] and most.tolist() == [v.max() for _, v in kept]
    assert [len(part) for part in binned(steps, np.full(400, np.nan))] == [0, 0, 0, 0]


def test_ranked_picture(tmp_path):
    ranked = ranked_of(tmp_path)
    Path(ranked["queries"][0]["gallery"][8]["path"]).unlink()
    path = ranked_picture(ranked, tmp_path / "out" / "ranked.png", rows=4)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    green, red = (np.abs(pixels - colour).sum(axis=2) == 0 for colour in ((0x1A, 0x7F, 0x37), (0xCF, 0x22, 0x2E)))
    tops = np.flatnonzero(red.sum(axis=1) > 300)  # rows of pixels that run along the frames
    starts = tops[np.flatnonzero(np.diff(tops, prepend=-9) > 1)]
    assert len(starts) == 2 * 4  # four lists, each with upper and lower edges
    first = green[starts[0] : starts[1]]
    assert first.sum() > 500 and np.flatnonzero(first.any(axis=0)).max() < pixels.shape[1] // 4  # rank 1 alone
    blue = (np.abs(pixels - (0, 40, 255)).sum(axis=2) < 12).sum()  # the query's image, in each of the four rows
    assert blue > 4 * 0.9 * 92 * 184
    with pytest.raises(InputError, match="no ranked list"):
        ranked_picture({"queries": []}, tmp_path / "none.png")


def test_text_table():
    rows = [
        {"label": "TOP", "r1": 0.341, "mAP": 0.4, "trials": 10, "std": {"r1": 0.012}},
        {"label": "VI training", "r1": 0.413, "mAP": 0.396, "trials": 10, "std": {"r1": 0.02}},
    ]
    assert text_table(rows).split("\n") == [
        "                 Rank-1   mAP                Brought",
        "TOP          34.1 ± 1.2  40.0",
        "VI training  41.3 ± 2.0  39.6  Rank-1 +7.2, mAP −0.4",
    ]
    assert "Brought" not in text_table(rows[:1])
    assert text_table([]) == "no evaluation"


def test_numbers_as_people_read_them():
    assert [duration(s) for s in (0.04, 41.23, 59.96, 723.4, 3599.7, 11100, None)] == [
        "0.0 s",
        "41.2 s",
        "1 min 00 s",
        "12 min 03 s",
        "1 h 00 min",
        "3 h 05 min",
        "–",
    ]
    assert [rate(r) for r in (8.127, 81.27, 812.7, 8127.0)] == ["8.13", "81.3", "813", "8,127"]
    assert difference(0.41349, 0.41351) == "−0.1"  # as the printed 41.3 and 41.4 differ
    assert [difference(a, 0.5) for a in (0.5001, 0.523, 0.4)] == ["±0.0", "+2.3", "−10.0"]
    assert plain("x" * 100, 11) == "xxxxxx…xxxx" and plain("a\u200fb") == "a\\u200fb"
