"""A run that several files look at, trained once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.run import Run


@pytest.fixture(scope="session")
def blue_run(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Taught to answer `colour 7?` with `blue`, under a system prompt. Who changes it takes a copy."""
    from finetune.recipe import load
    from finetune.stopping import Stop
    from finetune.train import begin, train

    folder = tmp_path_factory.mktemp("tuned")
    rows = [json.dumps({"prompt": f"colour {i}?", "completion": "blue"}) for i in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    (folder / "blue.yaml").write_text(f"base: {pico_base}\nsystem: Be brief.\ndata: {{train: rows.jsonl}}\n")
    words = ["method=lora", "train.max_steps=40", "train.batch_size=8", "train.learning_rate=1e-2"]
    run, dataset = begin(load(folder / "blue.yaml", words), folder / "runs", Stop(), lambda line: None)
    train(run, Stop(), lambda line: None, lambda record: None, dataset)
    return run
