"""Words of others on a page: whatever they hold, the page reads as it should."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from finetune.card.text import code, fenced, plain, quoted, shares, table

HOSTILE = [
    "---\nlicense: mit\n---",
    "# A heading",
    "- a list",
    "1. a list",
    "<script>alert(1)</script>",
    "<!-- hidden",
    "![x](http://evil/x.png)",
    "[click](javascript:alert(1))",
    "a | b | c",
    "```\nout of the block",
    "`````` long",
    "$x$ and ~~y~~ & *z*",
    "setext\n===",
    "\u202ereversed\u200b",
    "\\",
    "&lt;b&gt;",
    "",
    " \n ",
]


def shown(markdown: str) -> str:
    """Renders as the Hub's pages are, and takes the tags away."""
    html = MarkdownIt("gfm-like", {"linkify": False}).render(markdown)
    text = re.sub(r"<[^>]*>", "", html)
    for entity, each in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, each)
    return " ".join(text.split())


def tags(markdown: str) -> set[str]:
    html = MarkdownIt("gfm-like", {"linkify": False}).render(markdown)
    return set(re.findall(r"<(\w+)", html))


def bare(text: str) -> str:
    return " ".join(re.sub("[\u202e\u200b]", "", text).split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_word_is_shown_as_it_is(text: str) -> None:
    assert shown(plain(text)) == bare(text)
    assert tags(plain(text)) <= {"p"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_of_several_lines_is_a_quotation_and_nothing_else(text: str) -> None:
    assert shown(quoted(text)) == bare(text)
    assert tags(quoted(text)) <= {"blockquote", "p"}
    assert all(line.startswith(">") for line in quoted(text).splitlines())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_block_ends_where_its_text_does(text: str) -> None:
    assert tags(fenced(text, "yaml")) == {"pre", "code"}
    assert shown(fenced(text)) == bare(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_a_cell(text: str) -> None:
    made = table(["a", "b"], [[plain(text), code(text)]])
    assert MarkdownIt("gfm-like", {"linkify": False}).render(made).count("<td>") == 2


@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Zs"]), max_size=40)
)
def test_any_word_is_shown_as_it_is(text: str) -> None:
    assert shown(plain(text)) == bare(text)
    assert tags(plain(text)) <= {"p"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((1.0, 1.0, 1.0), "100.0% [100.0%, 100.0%]"),
        ((0.952, 0.9, 0.99), "95.2% [90.0%, 99.0%]"),
        ((0.99983, 0.99977, 0.99989), "99.98% [99.98%, 99.99%]"),
        ((0.9996, 0.99, 1.0), "99.96% [99.00%, 100.00%]"),
        ((1.00002, 1.0, 1.00004), "100.002% [100.000%, 100.004%]"),
    ],
)
def test_nearly_all_is_told_from_all(values: tuple[float, float, float], told: str) -> None:
    assert shares(*values) == told
