"""A browser opens a report without a word on its console and without asking anybody for anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from report_run import begun, evaluated, trained

from finetune.report import report

pytestmark = pytest.mark.slow

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
