"""Documents are cut so that nothing is lost, nothing stands twice, and each part is found again."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.draft.chunks import Chunk, chunks_of, tokens
from finetune.draft.document import Document
from finetune.draft.documents import markdown, plain

PIECES = st.sampled_from(
    [
        *("# Title\n", "## Part 2\n", "Heading\n=======\n", "\n", "\n\n", " ", "word ", "Ein Satz. ", "It ends here! "),
        *(
            "```python\n# no heading\n\nx = 1\n```\n",
            "~~~\n",
            "一个句子。",
            "第二句！",
            "字",
            "- item\n",
            "e.g. this ",
            "\t",
        ),
        *("x" * 90, "line\n" * 9, "| a | b |\n|---|---|\n", "<p>", "\u00a0", "🙂", "\ufeff"),
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=60).map("".join), st.text(max_size=400))


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, size=st.integers(3, 200))
def test_every_character_is_in_exactly_one_chunk(text: str, size: int) -> None:
    for document in (markdown("a.md", text), plain("a.txt", text)):
        chunks = chunks_of(document, size)
        assert "".join(chunk.text for chunk in chunks) == text
        assert [chunk.start for chunk in chunks] == [sum(len(c.text) for c in chunks[:i]) for i in range(len(chunks))]
        assert all(chunk.text for chunk in chunks)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, size=st.integers(3, 200))
def test_no_chunk_is_larger_than_was_asked_and_its_lines_are_those_of_its_words(text: str, size: int) -> None:
    document = markdown("a.md", text)
    lines = text.split("\n")
    for chunk in chunks_of(document, size):
        assert tokens(chunk.text) <= size + 1e-6
        assert 1 <= chunk.first <= chunk.last <= len(lines)
        if chunk.text.strip():
            held = "\n".join(lines[chunk.first - 1 : chunk.last])
            assert chunk.text.strip() in held


def cut(text: str, size: int) -> list[str]:
    return [chunk.text for chunk in chunks_of(markdown("a.md", text), size)]


def test_a_section_that_fills_a_quarter_has_a_chunk_of_its_own_and_a_heading_stays_with_its_text() -> None:
    first, second = "# One\n\n" + "a word " * 20 + "\n\n", "# Two\n\n" + "a word " * 20 + "\n"
    assert cut(first + second, 100) == [first, second]
    assert cut(first + second, 1000) == [first + second]
    assert cut("short\n\n# Two\n\n" + "b " * 195, 100) == ["short\n\n", "# Two\n\n" + "b " * 195]


def test_a_long_paragraph_is_cut_between_sentences_and_not_after_an_abbreviation() -> None:
    text = "Dr. Weber signs, e.g. for No. 5 and the others. It is valid from 1.5 years on. He may leave!"
    assert cut(text, 13) == [
        "Dr. Weber signs, e.g. for No. 5 and the others. ",
        "It is valid from 1.5 years on. He may leave!",
    ]


def test_chinese_is_cut_after_its_full_stop_and_counts_more_tokens() -> None:
    assert tokens("保修期为两年") == 6 / 1.6
    assert cut("保修期为两年。电池不在保修范围内。", 8) == ["保修期为两年。", "电池不在保修范围内。"]


def test_a_fence_of_code_is_kept_whole_and_holds_no_headings() -> None:
    code = "```sh\n# a comment\n\nmake\n```\n"
    document = markdown("a.md", f"# Build\n\n{code}\nText.\n")
    assert [heading.title for heading in document.headings] == ["Build"]
    assert cut(f"words here\n\n{code}\nafter it\n", 8) == ["words here\n\n", f"{code}\n", "after it\n"]


def test_headings_make_a_path_and_underlined_ones_count_too() -> None:
    text = "Guide\n=====\n\n## Power `on` ##\n\ntext\n\nOff\n---\n\n- item\n---\n\n# Other\n"
    document = markdown("a.md", text)
    assert [(heading.level, heading.title) for heading in document.headings] == [
        (1, "Guide"),
        (2, "Power on"),
        (2, "Off"),
        (1, "Other"),
    ]
    assert document.path(text.index("text")) == ("Guide", "Power on")
    assert document.path(text.index("item")) == ("Guide", "Off")


def test_front_matter_is_no_heading() -> None:
    assert markdown("a.md", "---\ntitle: x\n---\n# Real\n").headings[0].title == "Real"


def test_a_chunk_of_headings_alone_is_not_asked_about() -> None:
    document = markdown("a.md", "# " + "A long title of a part " * 5 + "\n\n## B\n")
    assert not Chunk(document, 0, document.text).is_asked
    assert not Chunk(Document("a", "Too short."), 0, "Too short.").is_asked


def test_the_estimate_of_tokens_is_near_qwens(test_data: Path) -> None:
    import json

    import pytest

    tokenizers = pytest.importorskip("tokenizers")
    folder = test_data / "tokenizers" / "qwen3.5-rebuilt"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ratios = {}
    for name in ("alpaca_en_demo", "alpaca_zh_demo"):
        rows = json.loads((test_data / "formats_llamafactory" / f"{name}.json").read_text())
        text = "\n".join(row["output"] for row in rows)
        ratios[name] = tokens(text) / len(tokenizer.encode(text).ids)
    print(ratios)
    assert 0.75 < ratios["alpaca_en_demo"] < 1.35
    assert 0.75 < ratios["alpaca_zh_demo"] < 1.35
