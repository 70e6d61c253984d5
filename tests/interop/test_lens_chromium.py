"""A browser draws what the page holds: the tokens in its document are the example's ids, marked as its mask says."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from finetune.data import Example, prepare
from finetune.lens import SIDES, Reader, Shown, everything, page
from finetune.recipe import load

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from lensing import TRUNCATED, make_base, prepared

pytestmark = pytest.mark.slow

EXAMPLES, TOKENS = 5_000, 300


class Tokens(HTMLParser):
    """Reads the cells of the example that is drawn, and every name of an element."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[tuple[str, list[int]]] = []
        self.texts: list[str] = []
        self.items = 0
        self.names: set[str] = set()
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {key: value or "" for key, value in attrs}
        self.names.add(tag)
        self.items += told.get("class") == "item"
        self._is_cell = "data-cell" in told
        if self._is_cell:
            fate = told["class"].split()[1]
            self.cells.append((fate, [int(i) for i in told["data-ids"].split("+")]))

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = False

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.texts.append(data)


def opened(chromium: str, file: Path, words: str) -> Tokens:
    """Opens a page, and reads the document that its script made."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command = [chromium, *flags, f"--user-data-dir={file.parent / 'profile'}", f"file://{file}#{words}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    tokens = Tokens()
    tokens.feed(re.sub(r'<script type="application/json".*?</script>', "", done.stdout, flags=re.DOTALL))
    return tokens


@pytest.mark.parametrize("at", [1, 2])
def test_the_document_holds_the_ids_and_the_mask_and_nothing_that_a_row_wrote(
    at: int, chromium: str, tmp_path: Path
) -> None:
    dataset = prepared(tmp_path, make_base(tmp_path), *TRUNCATED)
    facts = {"recipe": "r", "base": "b", "max_length": 230, "of": 9}
    file = tmp_path / "look.html"
    file.write_text(page(everything(dataset, SIDES), Reader(dataset.renderer.vocabulary), facts))
    example = dataset.train[at - 1]
    seen = opened(chromium, file, f"ids&whole&at={at}")
    ids = [*example.ids, *example.cut]
    fates = ["learnt" if learnt else "context" for learnt in example.learnt] + ["cut"] * len(example.cut)
    assert [i for _, some in seen.cells for i in some] == ids
    assert [fate for fate, some in seen.cells for _ in some] == fates
    assert seen.items == len(dataset.train) + len(dataset.held_out) + len(dataset.left_out)
    assert not seen.names & {"img", "b", "think"}
    text = dataset.renderer.vocabulary.decode(ids)
    assert re.sub("[·⏎⇥␍␛␇]|\\\\u202e", "", "".join(seen.texts)) == re.sub("[ \n\t\r\x1b\x07\u202e]", "", text)


def test_thousands_of_examples_are_a_small_page_that_opens_at_once(
    chromium: str, test_data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "look.html"
    file.write_text(thousands(test_data, tmp_path))
    assert file.stat().st_size < 15e6  # 4.2e6 was measured
    begun = time.monotonic()
    seen = opened(chromium, file, f"ids&whole&at={EXAMPLES}")
    assert time.monotonic() - begun < 30  # 2 to 4 were measured; half of it is the browser's own start
    assert sum(len(some) for _, some in seen.cells) == TOKENS
    assert seen.items < 30  # of the list only what is in sight


def thousands(test_data: Path, folder: Path) -> str:
    """Writes a page of real text, laid end to end and cut into examples of equal length."""
    rows = json.loads((test_data / "formats_llamafactory" / "alpaca_en_demo.json").read_text())
    told = [{"prompt": row["instruction"], "completion": row["output"]} for row in rows if row["output"].strip()]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    (folder / "recipe.yaml").write_text("base: a/b\ndata: {train: rows.jsonl, eval: 0}\n")
    shutil.copyfile(test_data / "tokenizers" / "qwen3.5-rebuilt" / "tokenizer.json", folder / "tokenizer.json")
    template = files("trl") / "chat_templates" / "qwen3_6.jinja"
    (folder / "chat_template.jinja").write_text(template.read_text(encoding="utf-8"))
    dataset = prepare(load(folder / "recipe.yaml"), folder)
    stream = itertools.cycle(pair for e in dataset.train for pair in zip(e.ids, e.learnt, strict=True))
    examples = []
    for number in range(1, EXAMPLES + 1):
        ids, learnt = zip(*itertools.islice(stream, TOKENS), strict=True)
        examples.append(Shown(Example(list(ids), list(learnt), f"rows.jsonl:{number}"), "train", number))
    facts = {"recipe": "r", "base": "b", "max_length": 2048, "of": EXAMPLES}
    return page(examples, Reader(dataset.renderer.vocabulary), facts)
