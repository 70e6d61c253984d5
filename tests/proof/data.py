"""Proof `data`: real public rows, legal and tool-calling, trained on a CPU; the adapter opened in plain PEFT.

    FINETUNE_TEST_DATA=... scripts/prove data

What it shows: the whole road from a company's kind of file to an adapter, on rows that nobody wrote for us, and that
held-out loss falls. What it does not: ability. The base is the toy one.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune.data.dataset import prepare
from finetune.recipe import load

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Trains on both sets and prints what was measured."""
    data = Path(os.environ["FINETUNE_TEST_DATA"])
    base = ROOT / ".cache" / "demo-base"
    finetune("demo-base", str(base))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write(work / "legalbench.jsonl", legalbench(data / "legal_legalbench"))
        write(work / "lawbench.jsonl", lawbench(data / "legal_lawbench_zh" / "1-1.json"))
        write(work / "glaive.jsonl", glaive(data / "formats_llamafactory" / "glaive_toolcall_en_demo.json"))
        templates = ROOT / "recipes" / "legal.yaml"
        words = ["data.max_length=1536", "train.epochs=5", "train.learning_rate=5e-3"]
        run_one("the legal template", templates, base, work, words)
        for name, epochs in (("legalbench", 8), ("lawbench", 1), ("glaive", 1)):
            recipe = work / f"{name}.yaml"
            recipe.write_text(f"base: {base}\ndata: {{train: {name}.jsonl, eval: 0.15, max_length: 1536}}\n")
            words = [f"train.epochs={epochs}", "train.batch_size=8", "lora.rank=16", "train.learning_rate=5e-3"]
            run_one(name, recipe, base, work, words)


def run_one(name: str, recipe: Path, base: Path, work: Path, words: list[str]) -> None:
    """Trains one recipe through the command line and prints a line of figures."""
    overrides = [f"--set={word}" for word in [f"base={base}", "method=lora", *words]]
    told = json.loads(finetune("train", str(recipe), *overrides, "--runs", str(work / "runs"), "--json", "--quiet"))
    claims = {claim["claim"]: claim["measured"] for claim in told["claims"]}
    before = claims["held-out loss of the base, nats a token"]
    after = claims["held-out loss after training, nats a token"]
    run = Path(told["run"])
    facts = json.loads((run / "manifest.json").read_text())
    counts = facts["data"]
    print(
        f"{name}: {counts['examples']} examples, {counts['held_out_examples']} held out, {counts['dropped']} too long, "
        f"{claims['optimizer steps taken']} steps in {told['seconds']} s; "
        f"held-out loss {before:.4f} -> {after:.4f} ({(after - before) / before:+.1%}); "
        f"plain PEFT's logits differ by at most {plain_peft_difference(run, base):g}",
        flush=True,
    )


@torch.inference_mode()
def plain_peft_difference(run: Path, base: Path) -> float:
    """Compares the loss curve's last point with plain peft + transformers, and their logits with ours."""
    from finetune.generate import open_tuned
    from finetune.run import Run

    ours = open_tuned(Run(run)).model
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, run / "adapter").eval()
    dataset = prepare(load(run / "recipe.yaml"), base)
    differences = []
    for example in dataset.held_out[:4]:
        ids = torch.tensor([example.ids])
        differences.append((ours(input_ids=ids).logits - plain(input_ids=ids).logits).abs().max().item())
    return max(differences)


def finetune(*words: str) -> str:
    """Runs the command; its stderr is ours."""
    command = [sys.executable, "-m", "finetune", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def write(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Writes JSON Lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def legalbench(folder: Path) -> Iterator[dict[str, Any]]:
    """LegalBench tasks (CC BY 4.0): a clause, a question about it, Yes or No."""
    for file in sorted(folder.glob("*__train.tsv")):
        task = file.name.split("__")[0]
        for row in csv.DictReader(file.open(newline=""), delimiter="\t"):
            yield {"prompt": f"Task: {task.replace('_', ' ')}\n\n{row['text']}", "completion": row["answer"]}


def lawbench(file: Path) -> Iterator[dict[str, Any]]:
    """LawBench 1-1 (Apache-2.0): an article of Chinese law by its number."""
    for row in json.loads(file.read_text()):
        yield {"prompt": f"{row['instruction']}\n{row['question']}", "completion": row["answer"]}


def glaive(file: Path) -> Iterator[dict[str, Any]]:
    """Tool calls (ShareGPT with function_call and observation), as LLaMA-Factory's demo file holds them."""
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    for row in json.loads(file.read_text()):
        messages: list[dict[str, Any]] = []
        for turn in row["conversations"]:
            if turn["from"] == "function_call":
                call = {"type": "function", "function": json.loads(turn["value"])}
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            else:
                messages.append({"role": roles[turn["from"]], "content": turn["value"]})
        if messages[-1]["role"] == "assistant":
            yield {"tools": json.loads(row["tools"] or "[]"), "messages": messages}


if __name__ == "__main__":
    main()
