"""A run on real rows, evaluated from end to end; every figure is computed again from its items by other code.

    scripts/prove evaluate [FOLDER]

Six categories of banking77: its train rows are learnt by the toy base, all of its own test rows of them are held out.
Base, tuned model and a q8_0 GGUF are asked loss, exact and choice, and 100 rows of GSM8K through lm-evaluation-harness,
as what should not be forgotten. Shares, intervals, p and losses are computed again by scipy and statsmodels from
items.jsonl; Chromium, where it is installed, draws the report, light and dark. The toy is not made for this: whatever
the verdicts are, they are printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy
import scipy.stats
import yaml
from statsmodels.stats.proportion import proportion_confint

CATEGORIES = (
    "age_limit",
    "card_arrival",
    "country_support",
    "exchange_rate",
    "lost_or_stolen_card",
    "top_up_failed",
)

GATE = ["held_out loss does not fall", "held_out exact drops more than 0.01", "gsm8k drops more than 0.02"]


def main() -> int:
    """Prints what was found and whether it was found again; 0 if it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".cache/prove-evaluate"))
    folder: Path = parser.parse_args().folder.absolute()
    data = Path(os.environ["FINETUNE_TEST_DATA"])
    if folder.exists():
        parser.error(f"{folder} is there already, from an earlier run: remove it, or name another folder")
    folder.mkdir(parents=True)
    print(f"rows: {lay_out(folder, data)}")
    base = Path(".cache/demo-base").absolute()
    if not (base / "config.json").is_file():
        finetune("demo-base", base)
    run = folder / "runs" / finetune("train", folder / "bank.yaml", "--runs", folder / "runs").rpartition("/")[2]
    finetune("merge", run)
    finetune("export", run, "--gguf", "q8_0")
    finetune("ledger", run)
    (gguf,) = (run / "gguf").glob("*Q8_0.gguf")
    print(finetune("evaluate", run, "--gguf", gguf, "--max-new-tokens", 24, whole=True))
    wrong = again(json.loads((run / "eval" / "evaluation.json").read_text()), run / "eval" / "items.jsonl")
    finetune("report", run)
    draw(run / "report.html", folder)
    print("\n".join(wrong) or "every figure was found again")
    return bool(wrong)


def lay_out(folder: Path, data: Path) -> dict[str, int]:
    """Writes the rows, the task and the recipe; gives how many rows there are."""
    counts = {}
    for name in ("train", "test"):
        with (data / "finance_banking77" / f"{name}.csv").open(newline="") as opened:
            rows = [row for row in csv.DictReader(opened) if row["category"] in CATEGORIES]
        with (folder / f"{name}.csv").open("w", newline="") as opened:
            writer = csv.DictWriter(opened, ["text", "category"])
            writer.writeheader()
            writer.writerows(rows)
        counts[name] = len(rows)
    rows = (data / "general_gsm8k" / "test.jsonl").read_text().splitlines(keepends=True)[:100]
    (folder / "gsm8k.jsonl").write_text("".join(rows))
    gsm8k = {
        "task": "gsm8k",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "gsm8k.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer.split('#### ')[-1]}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "gsm8k.yaml").write_text(yaml.safe_dump(gsm8k))
    recipe = {
        "base": str(Path(".cache/demo-base").absolute()),
        "method": "lora",
        "data": {
            "train": "train.csv",
            "eval": "test.csv",
            "columns": {"prompt": "text", "completion": "category"},
            "max_length": 256,
        },
        "train": {"max_steps": 60, "batch_size": 8, "learning_rate": 3e-3},
        "evaluate": {"tasks": ["loss", "exact", "choice", {"lm_eval": "gsm8k.yaml"}], "fail_if": GATE},
    }
    (folder / "bank.yaml").write_text(yaml.safe_dump(recipe))
    return counts


def finetune(*words: object, whole: bool = False) -> str:
    """Runs the command as a user does; gives its last line, or all of it."""
    began = time.monotonic()
    command = [sys.executable, "-m", "finetune", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 8):  # 8: a gate that fails is a finding
        sys.exit(f"finetune {words[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    print(f"finetune {words[0]}: {time.monotonic() - began:.0f} s, exit code {done.returncode}", flush=True)
    return done.stdout if whole else done.stdout.strip().rpartition("\n")[2]


def again(told: dict[str, Any], items: Path) -> list[str]:
    """Computes every figure of an evaluation again; lists what differs."""
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    wrong: list[str] = []
    for task in told["tasks"]:
        mine = [row["sides"] for row in rows if row["task"] == task["name"]]
        found = of_losses(task, mine) if task["kind"] == "loss" else of_shares(task, mine)
        bad = [f"WRONG: {task['name']}: {what} is {was}, found {now}" for what, was, now in found if not near(was, now)]
        print(f"{task['name']}: {len(found)} figures of {len(mine)} items computed again, {len(bad)} differ")
        wrong += bad
    return wrong


def of_shares(task: dict[str, Any], mine: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Gives each figure of shares as it was told and as it is found: share, Wilson's ends, difference, McNemar's p."""
    found = []
    for side, score in task["scores"].items():
        right = sum(row[side]["score"] for row in mine)
        low, high = proportion_confint(right, len(mine), method="wilson")
        found += [(f"{side} {end}", score[end], now) for end, now in
                  zip(("value", "low", "high"), (right / len(mine), low, high), strict=True)]  # fmt: skip
    pairs = {(pair["one"], pair["other"]): pair for pair in task["pairs"]}
    for one, other in combinations(task["scores"], 2):
        gained = sum(row[other]["score"] > row[one]["score"] for row in mine)
        lost = sum(row[other]["score"] < row[one]["score"] for row in mine)
        p = scipy.stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        pair = pairs[one, other]
        found += [(f"{one} to {other}", pair["difference"]["value"], (gained - lost) / len(mine))]
        found += [(f"p of {one} to {other}", pair["p"], float(p))]
    return found


def of_losses(task: dict[str, Any], mine: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Gives each loss and difference as it was told and as it is found: nats of all items by tokens of all items."""
    tokens = numpy.array([row["tuned"]["tokens"] for row in mine])
    nats = {side: numpy.array([row[side]["loss"] for row in mine]) * tokens for side in task["scores"]}
    found = [(side, score["value"], float(nats[side].sum() / tokens.sum())) for side, score in task["scores"].items()]
    for pair in task["pairs"]:
        away = (nats[pair["other"]] - nats[pair["one"]]).sum() / tokens.sum()
        found.append((f"{pair['one']} to {pair['other']}", pair["difference"]["value"], float(away)))
    return found


def near(one: float, other: float) -> bool:
    """Tells whether two figures are one but for rounding."""
    return abs(one - other) <= 1e-9 + 1e-6 * abs(other)


def draw(page: Path, folder: Path) -> None:
    """Draws a page by Chromium, light and dark."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    for theme in ("light", "dark") if browser else ():
        picture = folder / f"report-{theme}.png"
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,5200"]
        words += ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
        subprocess.run(
            [str(browser), *words, f"--screenshot={picture}", page.as_uri()], capture_output=True, check=True
        )
        print(picture)
    if not browser:
        print("no Chromium here: the page was not drawn")


if __name__ == "__main__":
    sys.exit(main())
