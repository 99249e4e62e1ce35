"""Reports, cards and terminals show the names of strangers as text, whatever is in them; the page asks for nothing."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the extra train is not installed")

from attacks.reports import NAMES
from report_cases import Page, result, write_run

from toplight_ext.deploy import model_card
from toplight_ext.report import write_report
from toplight_ext.text import markdown, plain


def hostile_run(folder: Path, port: int) -> Path:
    """A run in which everything that can have a name has a hostile one, and the folder too."""
    names = [name.replace("{port}", str(port)) for name in NAMES]
    run = write_run(folder / "run", recipe="# " + "\n# ".join(names).replace("\ud800", ""))
    ranked = json.loads((run / "ranked.json").read_text())
    for query, name in zip(ranked["queries"] * 3, names, strict=False):
        query.update(identity=name, camera=name, modality=name)
        query["gallery"][1].update(identity=name, camera=name, path=f"/nowhere/{name}")
    (run / "ranked.json").write_text(json.dumps(ranked))
    analysis = json.loads((run / "analysis.json").read_text())
    example = analysis["slices"]["examples"][0]
    analysis["slices"]["examples"] = [{**example, "identity": name, "modality": name, "path": name} for name in names]
    analysis["projection"]["identity"] = names[:4]
    (run / "analysis.json").write_text(json.dumps(analysis))
    results = [result("x", 0.1, 0.2, label=name, protocol=name, metric=name) | {"name": name} for name in names]
    (run / "evaluation.json").write_text(json.dumps({"results": results}))
    lines = [{"stage": name, "step": step, "loss": 2.0, name: 1.0} for name in names for step in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "stages.json").write_text(json.dumps([{"stage": name, "seconds": 1.0} for name in names]))
    (run / "environment.json").write_text(json.dumps({name: name for name in names}))
    return run.rename(folder / names[7].replace("/", "|"))


def test_hostile_names_are_text_everywhere(tmp_path):
    page = Page(write_report([hostile_run(tmp_path, 1)], tmp_path / "out.html"))
    page.assert_closed_to_the_outside()
    assert "<img src=http:||127.0.0.1:1|x.png>" in page.text and "\\u2066\\u2067\\u202d" in page.text
    assert page.source.replace("\n", "").replace("\t", "").isprintable()
    assert len(page.source) < 3_000_000


def test_browser_that_may_load_anything_asks_for_nothing(tmp_path):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on PATH, in which to open the report")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        path = write_report([hostile_run(tmp_path, port)], tmp_path / "out.html")
        # Without the policy that forbids it, and with a request of ours, which shows that requests arrive.
        source = re.sub(r"<meta http-equiv=.*?>", "", path.read_text(encoding="utf-8"))
        ours = f'<img src="http://127.0.0.1:{port}/ours"></body>'
        path.write_text(source.replace("</body>", ours), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--timeout=4000", "--dump-dom"]
        options += [f"--user-data-dir={tmp_path / 'profile'}", "--disable-background-networking"]
        browser = subprocess.Popen(
            [program, *options, path.as_uri()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        server.settimeout(30)
        asked = []
        with contextlib.suppress(TimeoutError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(5)
                    asked.append(connection.recv(100).split(b" ")[1:2])
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                server.settimeout(2)
        dom, _ = browser.communicate(timeout=30)
    assert [path for path in asked if path] == [[b"/ours"]]
    assert b"<title>" in dom


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_markdown_and_terminals_get_one_line_of_printable_text(name):
    for shown in (plain(name), markdown(name)):
        assert shown.isprintable()
    assert len(plain(name)) <= 80
    assert not re.search(r"(?<!\\)[`*_<>\[\]|#!&]", markdown(name).replace("\\\\", ""))
    trained = {"dataset": name, "split": name}
    results = [{"protocol": name, "metric": name, "images": [name, name], "r1": name, "std": name, "trials": name}]
    card = model_card(
        name, {"name": name, "neck": name, "slices": name}, {"trained_on": [trained], "size": name}, results
    )
    assert "<" not in re.sub(r"\\.", "", card) and card.replace("\n", "").isprintable()
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", row))) for row in rows} == {3, 9}
