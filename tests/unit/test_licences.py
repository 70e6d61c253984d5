"""What licences of a base and of data leave to a tuned model, case by case, and what is read of a base's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import RecipeError
from finetune.licences import KNOWN, Stated, combine, known, licence_of_base

MATRIX = [
    # base, data, wish -> licence, whether it may be published to all
    ("apache-2.0", ["apache-2.0"], None, "apache-2.0", "yes"),
    ("apache-2.0", ["mit", "cc-by-4.0"], None, "apache-2.0", "yes"),
    ("apache-2.0", ["own"], None, "apache-2.0", "yes"),
    ("apache-2.0", ["mit"], "mit", "mit", "yes"),
    ("apache-2.0", ["mit"], "cc-by-nc-4.0", "cc-by-nc-4.0", "yes"),
    ("mit", ["cdla-sharing-1.0"], None, "mit", "yes"),
    ("apache-2.0", ["cc-by-sa-4.0"], None, "cc-by-sa-4.0", "yes"),
    ("apache-2.0", ["cc-by-sa-4.0"], "apache-2.0", "apache-2.0", "no"),
    ("apache-2.0", ["cc-by-sa-3.0", "cc-by-sa-4.0"], None, "cc-by-sa-4.0", "yes"),
    ("apache-2.0", ["cc-by-sa-4.0", "gpl-3.0"], None, "gpl-3.0", "yes"),
    ("apache-2.0", ["cc-by-sa-4.0", "eupl-1.2"], None, "other", "no"),
    ("gpl-3.0", ["cc-by-nc-4.0"], None, "gpl-3.0", "no"),
    ("agpl-3.0", ["gpl-3.0"], None, "agpl-3.0", "yes"),
    ("apache-2.0", ["cc-by-nc-4.0"], None, "cc-by-nc-4.0", "only forced"),
    ("apache-2.0", ["cc-by-nc-4.0"], "apache-2.0", "apache-2.0", "no"),
    ("apache-2.0", ["cc-by-nc-sa-4.0", "mit"], None, "cc-by-nc-sa-4.0", "only forced"),
    ("apache-2.0", ["cc-by-sa-4.0", "cc-by-nc-4.0"], None, "cc-by-sa-4.0", "no"),
    ("apache-2.0", ["cc-by-nd-4.0"], None, "apache-2.0", "only forced"),
    ("cc-by-nd-4.0", ["mit"], None, "cc-by-nd-4.0", "no"),
    ("cc-by-nc-4.0", ["mit"], None, "cc-by-nc-4.0", "only forced"),
    ("apache-2.0", [None], None, "apache-2.0", "only forced"),
    ("apache-2.0", ["unknown", "mit"], None, "apache-2.0", "only forced"),
    ("apache-2.0", ["acme-terms"], None, "apache-2.0", "only forced"),
    ("apache-2.0", ["odbl"], None, "apache-2.0", "only forced"),
    (None, ["mit"], None, "unknown", "only forced"),
    ("llama3.3", ["mit"], None, "llama3.3", "yes"),
    ("llama3.3", ["mit"], "apache-2.0", "apache-2.0", "no"),
    ("llama3.3", ["cc-by-nc-4.0"], None, "other", "only forced"),
    ("gemma", ["openrail"], None, "other", "yes"),
    ("apache-2.0", ["openrail"], None, "openrail", "yes"),
    ("apache-2.0", ["mit"], "acme terms v2", "other", "yes"),
    # a wish is held against each licence, not against what they leave together
    ("gemma", ["llama3"], "mit", "mit", "no"),
    ("gemma", ["llama3"], "gemma", "gemma", "no"),
    ("gemma", ["bigcode-openrail-m"], "apache-2.0", "apache-2.0", "no"),
    ("gemma", ["cc-by-nc-4.0"], "mit", "mit", "no"),
    ("apache-2.0", ["cc-by-nc-sa-4.0", "cc-by-nc-4.0"], "cc-by-nc-4.0", "cc-by-nc-4.0", "no"),
    ("apache-2.0", ["cc-by-nc-nd-4.0"], "cc-by-nc-4.0", "cc-by-nc-4.0", "no"),
    ("apache-2.0", ["own"], "cc0-1.0", "cc0-1.0", "no"),
    ("cc0-1.0", ["cc-by-4.0"], "unlicense", "unlicense", "no"),
    ("cc0-1.0", ["own"], "unlicense", "unlicense", "yes"),
    ("apache-2.0", ["mit"], "own", "other", "yes"),
    # GPL 2 alone allows none of Apache's terms to be added, GPL 3 does
    ("apache-2.0", ["gpl-2.0"], None, "gpl-2.0", "no"),
    ("mit", ["gpl-2.0"], None, "gpl-2.0", "yes"),
    ("apache-2.0", ["gpl-3.0"], None, "gpl-3.0", "yes"),
    ("apache-2.0", ["lgpl-2.1"], None, "lgpl-2.1", "no"),
    ("apache-2.0", ["lgpl-2.1"], "gpl-3.0", "gpl-3.0", "yes"),
]


@pytest.mark.parametrize(("base", "data", "wish", "licence", "publishable"), MATRIX)
def test_the_strictest_licence_wins(
    base: str | None, data: list[str | None], wish: str | None, licence: str, publishable: str
) -> None:
    verdict = combine(Stated("the base", base), [Stated(f"rows {n}", word) for n, word in enumerate(data)], wish)
    assert (verdict.license, verdict.publishable) == (licence, publishable), verdict.why
    assert bool(verdict.why) == (publishable != "yes")
    assert (verdict.license_name is not None) == (licence == "other")


def test_every_reason_names_what_it_is_about_and_no_reason_is_lost() -> None:
    data = [Stated("a.jsonl", "cc-by-nc-4.0"), Stated("b.jsonl", None), Stated("acme/c", "cc-by-4.0", hub=True)]
    verdict = combine(Stated("Qwen/Qwen3.6-27B", "apache-2.0"), data, "mit")
    assert verdict.why == (
        "mit is wished for, but cc-by-nc-4.0 forbids commercial use",
        "a.jsonl (cc-by-nc-4.0) may not be used commercially",
        "b.jsonl states no licence",
    )
    assert verdict.notices == (
        "Changed from Qwen/Qwen3.6-27B by fine-tuning; that is under apache-2.0, and its LICENSE goes along",
        "Trained on a.jsonl, under cc-by-nc-4.0: its authors are to be credited, and the name of a file credits "
        "nobody: whoever publishes this model must name them, in the recipe's card.intended_use",
        "Trained on acme/c, under cc-by-4.0: its authors are credited by that name",
    )
    assert verdict.where == ("card.license", "data.train", "data.train")


def test_a_base_that_states_nothing_is_where_the_reason_is_and_a_wish_is_not_what_is_left() -> None:
    verdict = combine(Stated("acme/base", None), [Stated("rows.csv", "cc-by-4.0")], "apache-2.0")
    assert (verdict.license, verdict.left, verdict.publishable) == ("apache-2.0", "unknown", "only forced")
    assert (verdict.where, verdict.why) == (("base",), ("acme/base states no licence",))


@pytest.mark.parametrize(
    "word", ["Apache 2.0", "apache-2", "CC BY 4.0", "CC-BY-NC-SA-4.0", "GPL-3.0-only", "MIT License"]
)
def test_other_spellings_are_the_same_licence(word: str) -> None:
    assert known(word) is not None


def test_a_wish_that_is_nearly_a_licence_is_refused_with_that_one() -> None:
    with pytest.raises(RecipeError, match="no licence") as told:
        combine(Stated("b", "apache-2.0"), [Stated("d", "mit")], "cc-by-4.00")
    assert told.value.problems[0].fix == "--set card.license=cc-by-4.0"


def test_what_forbids_commerce_is_never_published_unforced() -> None:
    for licence in KNOWN.values():
        for base, data in ((licence.id, "mit"), ("mit", licence.id)):
            verdict = combine(Stated("b", base), [Stated("d", data)])
            assert licence.commercial == "yes" or verdict.publishable != "yes", licence.id


def test_no_wish_frees_of_what_two_licences_bind_to_together() -> None:
    binding = [licence.id for licence in KNOWN.values() if licence.restricted or licence.commercial == "no"]
    for one in binding:
        for other in binding:
            assert combine(Stated("b", one), [Stated("d", other)], "mit").publishable == "no", (one, other)


APACHE = "\n                                 Apache License\n                           Version 2.0, January 2004\n"
SAYS_APACHE = "---\nlicense: apache-2.0\n---\n"


def commons(words: str) -> str:
    return f"Creative Commons\n\nAttribution-{words} 4.0 International\n"


@pytest.mark.parametrize(
    ("files", "base", "licence", "where"),
    [
        ({"README.md": "---\nlicense: mit\n---\n# A"}, None, "mit", "the head of its README.md"),
        ({"LICENSE": APACHE}, None, "apache-2.0", "its LICENSE"),
        ({"README.md": "---\nlicense: apache-2.0\n---\n", "LICENSE": APACHE}, None, "apache-2.0", "README"),
        ({"README.md": "---\nlicense: mit\n---\n", "LICENSE": APACHE}, None, None, "contradict"),
        ({"README.md": "---\nlicense: other\nlicense_name: acme\n---\n"}, None, "other (acme)", "README"),
        ({"README.md": "---\n: [\n---\n", "config.json": '{"license": "mit"}'}, None, None, "cannot be read"),
        ({"README.md": f"---\nx: {'[' * 3000}{']' * 3000}\n---\n"}, None, None, "cannot be read"),
        ({"README.md": "---\nlicense: mit\ndate: 2024-99-99\n---\n"}, None, "mit", "README"),
        ({"README.md": "\ufeff---\nlicense: mit\n---\n"}, None, "mit", "README"),
        ({"README.md": "# A", "config.json": '{"license": "mit"}'}, None, "mit", "config.json"),
        ({"README.md": "---\nlicense: [mit]\n---\n"}, None, "mit", "README"),
        ({"README.md": "---\nlicense: [cc-by-nc-4.0]\n---\n", "LICENSE": APACHE}, None, None, "contradict"),
        ({"README.md": "---\nLicense: cc-by-nc-4.0\n---\n", "LICENSE": APACHE}, None, None, "contradict"),
        ({"README.md": "---\nlicense: mit\nLicense: gpl-3.0\n---\n"}, None, None, "contradict"),
        ({"README.md": "---\nlicense: {a: b}\n---\n", "LICENSE": APACHE}, None, None, "contradict"),
        ({"README.md": SAYS_APACHE, "LICENSE": "META LLAMA 3 COMMUNITY LICENSE AGREEMENT"}, None, None, "llama3"),
        ({"README.md": SAYS_APACHE, "LICENSE": commons("NonCommercial-ShareAlike")}, None, None, "cc-by-nc-sa-4.0"),
        ({"README.md": SAYS_APACHE, "LICENSE": commons("NonCommercial-NoDerivatives")}, None, None, "cc-by-nc-nd-4.0"),
        (
            {"README.md": SAYS_APACHE, "LICENSE": "(c) me\n" * 900 + commons("NonCommercial")},
            None,
            None,
            "cc-by-nc-4.0",
        ),
        ({"README.md": SAYS_APACHE, "LICENSE": "All rights reserved."}, None, None, "its LICENSE: other"),
        ({"README.md": SAYS_APACHE, "COPYING": "All rights reserved."}, None, None, "its COPYING: other"),
        ({"README.md": SAYS_APACHE, "LICENSE": APACHE + "for non-commercial use"}, None, None, "its LICENSE: other"),
        ({"README.md": SAYS_APACHE, "LICENSE": ""}, None, "apache-2.0", "README"),
        (
            {"README.md": SAYS_APACHE, "LICENSES/CC-BY-4.0.txt": "Attribution 4.0 International"},
            None,
            None,
            "LICENSES/",
        ),
        ({"README.md": "---\nlicense: other\nlicense_name: a\n---\n", "LICENSE": "Mine."}, None, "other (a)", "README"),
        ({"README.md": "---\nlicense: cc-by-nc-4.0\n---\n"}, "Qwen/Qwen3.6-9B", "cc-by-nc-4.0", "README"),
        ({"LICENSE.md": "Qwen RESEARCH LICENSE AGREEMENT"}, "Qwen/Qwen3.6-9B", "other", "its LICENSE.md"),
        ({}, "Qwen/Qwen3.6-27B", "apache-2.0", "known of Qwen"),
        ({"LICENSE": "All rights reserved."}, "acme/own", "other", "its LICENSE"),
        ({}, "Qwen/Qwen2.5-3B", None, "no file"),
    ],
)
def test_a_bases_licence_is_what_its_files_say(
    files: dict[str, str], base: str | None, licence: str | None, where: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    stated = licence_of_base("the base", base, tmp_path)
    assert stated.license == licence
    assert where in stated.where


def test_a_folder_or_a_link_to_nowhere_is_no_text_of_a_licence(tmp_path: Path) -> None:
    (tmp_path / "LICENSES").mkdir()
    (tmp_path / "LICENSE").symlink_to("nowhere")
    assert licence_of_base("b", "Qwen/Qwen3.6-27B", tmp_path).license == "apache-2.0"


def test_why_no_licence_is_taken_for_stated_is_told() -> None:
    verdict = combine(Stated("b", None, "its files contradict each other: x: mit, y: other"), [Stated("d", "own")])
    assert verdict.why == ("b states no licence (its files contradict each other: x: mit, y: other)",)
