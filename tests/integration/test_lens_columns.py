"""What the lens shows is what the trainer is given: the very `input_ids` and `labels` of its batches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from finetune.data import Dataset
from finetune.lens import Reader, everything, page, told
from finetune.train.batches import collate

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from lensing import TRUNCATED, make_base, prepared, read_page


@pytest.fixture(params=[(), TRUNCATED], ids=["whole", "truncated"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    return prepared(tmp_path, make_base(tmp_path), *request.param)


def test_labels_are_the_ids_that_the_lens_shows_as_learnt(dataset: Dataset) -> None:
    batch = collate([{"index": row} for row in range(len(dataset.train))], examples=dataset.train, pad=0)
    reader = Reader(dataset.renderer.vocabulary)
    shown = list(everything(dataset, ["train"]))
    decoded = read_page(page(shown, reader, {"recipe": "r", "base": "b", "max_length": 9, "of": len(shown)}))
    for row, each, of_page in zip(range(len(shown)), shown, decoded, strict=True):
        length = int(batch["attention_mask"][row].sum())
        ids, labels = batch["input_ids"][row, :length].tolist(), batch["labels"][row, :length].tolist()
        of_json = [(i, s["fate"]) for s in told(each, reader, 9)["stretches"] for c in s["cells"] for i in c["ids"]]
        assert of_json == list(zip(of_page["ids"], of_page["fates"], strict=True))
        seen = [(i, fate) for i, fate in of_json if fate != "cut"]
        assert [i for i, _ in seen] == ids
        assert [i if fate == "learnt" else -100 for i, fate in seen] == labels
        assert batch["labels"][row, length:].tolist() == [-100] * (batch["labels"].shape[1] - length)
