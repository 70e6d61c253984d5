"""The page holds exactly the examples that are trained on, and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from lensing import TRUNCATED, data_block, make_base, prepared, read_page

from finetune.data import Dataset
from finetune.lens import SIDES, Reader, everything, page

FACTS = {"recipe": "a </title> b", "base": "a/b", "max_length": 230, "of": 5}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("byte-base"))


@pytest.fixture(scope="module", params=[(), TRUNCATED], ids=["whole", "truncated"])
def dataset(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("rows"), base, *request.param)


def written(dataset: Dataset) -> str:
    return page(everything(dataset, SIDES), Reader(dataset.renderer.vocabulary), FACTS)


def test_decoded_ids_and_fates_are_those_of_the_dataset(dataset: Dataset) -> None:
    decoded = read_page(written(dataset))
    examples = [*dataset.train, *dataset.held_out, *dataset.left_out]
    seen = len(examples) - len(dataset.left_out)
    assert [each["ids"] for each in decoded] == [[*e.ids, *e.cut] for e in examples]
    assert [each["fates"] for each in decoded] == [
        ["learnt" if learnt else "context" for learnt in e.learnt] + ["cut"] * len(e.cut)
        if i < seen
        else ["cut"] * len(e)
        for i, e in enumerate(examples)
    ]
    assert [each["place"] for each in decoded] == [e.place for e in examples]
    assert [(each["side"], each["row"]) for each in decoded] == [
        (side, row)
        for side, some in enumerate([dataset.train, dataset.held_out, dataset.left_out])
        for row in range(1, len(some) + 1)
    ]


def test_the_commonest_cells_have_the_smallest_numbers(dataset: Dataset) -> None:
    told = data_block(written(dataset))
    vocabulary = dataset.renderer.vocabulary
    ids = [i for e in [*dataset.train, *dataset.held_out, *dataset.left_out] for i in [*e.ids, *e.cut]]
    counts = [ids.count(only[0]) for _, *only in told["cells"] if len(only) == 1]
    assert counts == sorted(counts, reverse=True)
    controls = {told["cells"][number][0] for number in told["control"]}
    assert controls == {token for token, i in vocabulary.control.items() if i in ids}


def test_a_row_cannot_end_the_block_that_holds_it_nor_can_a_name(dataset: Dataset) -> None:
    text = written(dataset)
    assert text.count("</script") == 2
    assert text.count("</title") == 1
    assert "<img" not in text
    assert "\x1b" not in text


def test_the_page_names_no_address_and_its_policy_allows_its_own_script_alone(dataset: Dataset) -> None:
    text = written(dataset)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for part in (script, style):
        assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp|innerHTML|insertAdjacent|eval\(", part)
    assert not re.search(r"\s(src|href|on\w+)=", text.replace(script, "").replace(data_text(text), ""))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy == "; ".join(
        [
            "default-src 'none'",
            f"style-src 'sha256-{digest(style)}'",
            f"script-src 'sha256-{digest(script)}'",
            "img-src data:",
        ]
    )


def data_text(text: str) -> str:
    (block,) = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    return block


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
