"""A run folder made by hand, and a reader of the page that is made of it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

Image = pytest.importorskip("PIL.Image")

INLINE = {"bdi", "b", "i", "strong", "small", "span", "mark"}
VOID = {"meta", "link", "img", "br"}
HOSTILE = (
    "</pre></bdi><script>document.title='owned'</script>",
    "\" onmouseover=\"document.title='owned'\" '><img src=http://example.org/x.png onerror=\"document.title='owned'\">",
    "evil\u202egpj.exe \u05e9\u05dc\u05d5\u05dd",
    "line\nbreak\x00\x1b[31m\r&amp;",
    "\ud800 lone",
    "long" * 2500,
    "$\\frac{a}{",
)


def result(name: str, r1: float, mean_ap: float, **more) -> dict:
    values = {"r5": r1 + 0.1, "r10": r1 + 0.2, "r20": r1 + 0.3, "mINP": mean_ap - 0.05}
    cmc = [round(r1 + 0.01 * rank, 4) for rank in range(30)]
    test = {"protocol": "infrared->visible", "metric": "cosine", "valid_queries": 6, "trials": 1, "std": {}}
    return {"name": name, "label": name.upper(), "r1": r1, "mAP": mean_ap, "cmc": cmc, **values, **test, **more}


RESULTS = [result("top", 0.341, 0.4), result("soup", 0.333, 0.405), result("vi", 0.413, 0.45)]


def ranked_of(folder: Path) -> dict:
    """Six queries with a list of ten each; queries 0, 1 and 2 have a right first image, 4 a right third one."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(12):
        paths.append(str(folder / "images" / f"{i}.png"))
        Image.new("RGB", (32, 64), (20 * i, 40, 255 - 20 * i)).save(paths[-1])
    queries = []
    for q in range(6):
        right = {0} if q < 3 else {2} if q == 4 else set()
        gallery = [
            {"path": paths[g + 1], "identity": f"g{g}", "camera": 1, "correct": g in right, "distance": 0.1 + g / 100}
            for g in range(10)
        ]
        query = {"path": f"{paths[0]}", "identity": f"q{q}", "camera": 2, "modality": "infrared", "gallery": gallery}
        queries.append(query)
    return {"queries": queries}


def write_run(folder: Path, recipe: str = 'name = "demo"\n\n[vi]\nepochs = 20\n', results=RESULTS) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    lines = [
        {
            "stage": stage,
            "step": step,
            "epoch": step // 10,
            "learning_rate": 1e-3,
            "loss": 4.0,
            "identity": 3.0 - step / 99,
        }
        for stage, steps in (("top", 20), ("vi", 400))
        for step in range(steps)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ends = [("top", 60.0, 812.0), ("soup", 3.0, None), ("vi", 117.0, 96.4)]
    stages = [{"stage": name, "seconds": seconds, "images_per_second": speed} for name, seconds, speed in ends]
    (folder / "stages.json").write_text(json.dumps(stages))
    (folder / "evaluation.json").write_text(json.dumps({"results": results}))
    (folder / "ranked.json").write_text(json.dumps(ranked_of(folder)))
    (folder / "analysis.json").write_text(json.dumps(analysis_of(folder)))
    (folder / "environment.json").write_text(json.dumps({"torch": "2.14.1", "gpu": None, "cores": 2}))
    return folder


def analysis_of(folder: Path) -> dict:
    """Twelve pairs; four images of two identities; FDR with slices (3, 2)."""
    image = str(folder / "images" / "11.png")
    example = {"path": image, "identity": "g2", "modality": "visible", "rows": [0.2, 0.4, 0.1], "columns": [0.3, 0.3]}
    return {
        "distances": {"edges": [0.0, 0.5, 1.0, 1.5], "genuine": [3, 1, 0], "impostor": [0, 2, 6]},
        "projection": {
            "x": [0.0, 1.0, 0.1, 1.1],
            "y": [0.0, 0.0, 0.5, 0.5],
            "variance": [0.61, 0.27],
            "modality": ["visible", "visible", "infrared", "infrared"],
            "identity": ["a", "b", "a", "b"],
        },
        "slices": {
            "rows": {"visible": [0.2, 0.4, 0.1], "infrared": [0.1, 0.5, 0.2]},
            "columns": {"visible": [0.3, 0.3], "infrared": [0.2, 0.4]},
            "examples": [example],
        },
    }


class Page(HTMLParser):
    """Reads a page: its elements, its text, and whether every element is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.text += "" if tag in INLINE else " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if "style" in self.open else data

    def rows(self) -> list[list[str]]:
        """Cells of all table rows, tags left out."""
        cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", self.source)]
        return [[re.sub("<.*?>", " ", cell).split() for cell in row] for row in cells]

    def assert_closed_to_the_outside(self) -> None:
        assert not {tag for tag, _ in self.elements} & {"script", "iframe", "object", "embed", "form", "base", "image"}
        for tag, attributes in self.elements:
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                if name in ("src", "href"):
                    assert value.startswith(("data:", "#")), (tag, value[:80])
        style = re.search(r"<style>(.*?)</style>", self.source, re.DOTALL)[1]
        assert "@import" not in style and "url(" not in style
        assert [a["content"] for t, a in self.elements if a.get("http-equiv") == "Content-Security-Policy"] == [
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        ]
