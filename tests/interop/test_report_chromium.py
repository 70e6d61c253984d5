"""A browser opens a report without a word on its console and without asking anybody for anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from report_run import begun, evaluated, evaluation, harness_task, trained

from finetune.report import report

pytestmark = pytest.mark.slow

A4_WITHIN_MARGINS = 695
"""Pixels: 210 mm less 13 mm on each side, at 96 an inch."""

SECTIONS = {"tasks", "flips", "loss", "data", "plan", "ledger", "chain", "notes", "recipe"}


def opened(chromium: str, file: Path, *flags: str) -> tuple[str, list[str]]:
    """Opens a page in a fresh profile; gives its document, and every address that the browser asked for."""
    log = file.parent / "net.json"
    told = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--disable-background-networking"]
    told += [f"--user-data-dir={file.parent / 'profile'}", f"--log-net-log={log}", *flags]
    command = [chromium, *told, f"file://{file}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    text = log.read_text()
    whole = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")
    asked = [event["params"]["url"] for event in whole["events"] if "url" in event.get("params", {})]
    return done.stdout, asked


def of_the_page(asked: list[str]) -> list[str]:
    """Leaves out what a browser asks its own maker for, whatever page it opens."""
    return [
        url
        for url in asked
        if not re.match(r"(chrome|devtools|chrome-extension):|https?://[\w.-]*\.(google|googleapis|gvt1)\.com", url)
    ]


@pytest.mark.parametrize(
    ("make", "without"),
    [(evaluated, set()), (trained, {"flips"}), (begun, {"flips", "loss"})],
    ids=["all", "trained", "begun"],
)
def test_a_page_opens_in_silence_with_its_sections(
    make: object, without: set[str], chromium: str, tmp_path: Path
) -> None:
    assert callable(make)
    run = make(tmp_path)
    report(run, run.report)
    document, asked = opened(chromium, run.report, "--dump-dom")
    assert set(re.findall(r'<section id="(\w+)"', document)) == SECTIONS - without
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)", "", document)
    assert set(of_the_page(asked)) <= {f"file://{run.report}"}


def test_it_prints_on_a4(chromium: str, tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    report(run, run.report)
    printed = tmp_path / "report.pdf"
    opened(chromium, run.report, f"--print-to-pdf={printed}")
    boxes = re.findall(rb"/MediaBox \[([\d. ]+)\]", printed.read_bytes())
    assert boxes
    for box in boxes:
        assert [float(end) for end in box.split()] == pytest.approx([0, 0, 594.96, 841.92], abs=1)


MEASURED = """<!doctype html><iframe id="page" src="{page}" width="{width}" height="3000" style="border: 0"></iframe>
<script>onload = () => {{
  const inside = document.getElementById("page").contentDocument;
  const ends = [...inside.querySelectorAll(".compare .chip, .planned svg, .compare .plot svg")].map(
    (each) => Math.ceil(each.getBoundingClientRect().right));
  const text = inside.querySelector("svg.chart");
  const letters = parseFloat(getComputedStyle(text).fontSize) * text.getBoundingClientRect().width / 1000;
  document.body.innerHTML = "<pre>" + JSON.stringify(
    {{ends, whole: inside.documentElement.scrollWidth, letters}}) + "</pre>";
}};</script>"""


@pytest.mark.parametrize(
    ("width", "printed"), [(375, False), (500, False), (800, False), (1100, False), (A4_WITHIN_MARGINS, True)]
)
def test_verdicts_and_bars_are_in_sight_in_every_width_and_on_paper(
    width: int, printed: bool, chromium: str, tmp_path: Path
) -> None:
    run = evaluated(tmp_path, tasks=[*evaluation()["tasks"], harness_task("wikitext", (12.5, 15.0), (2.5, 1.5, 3.5))])
    report(run, run.report)
    page = re.sub(r"<meta http-equiv[^>]*>", "", run.report.read_text())
    seen = tmp_path / "seen.html"
    seen.write_text(
        page.replace("@media print", "@media all").replace("@media screen", "@media not all") if printed else page
    )
    around = tmp_path / "around.html"
    around.write_text(MEASURED.format(page=seen.name, width=width))
    document, _ = opened(chromium, around, "--dump-dom", "--window-size=1400,1000", "--allow-file-access-from-files")
    found = json.loads(re.search(r"<pre>(.*)</pre>", document)[1])
    assert len(found["ends"]) > 10
    assert max(found["ends"]) <= width
    assert found["whole"] <= width, "the page itself never scrolls sideways"
    assert found["letters"] > (8 if printed else 9), "the labels of the curve can be read"
