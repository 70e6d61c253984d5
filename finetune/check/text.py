"""What stands in a row's texts that nobody meant to teach: leftovers, placeholders, refusals, echoes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from finetune.check.encodings import wrong_characters
from finetune.check.finding import SNIPPET, Finding, snippet
from finetune.check.saying import Said, said
from finetune.check.words import units
from finetune.data import Row

_PLACEHOLDER = re.compile(
    r"\{\{\s*[A-Za-z_][\w .-]{0,40}\}\}"
    r"|\[(?:your|insert|enter|recipient|sender|company|customer|client|employee|first|last|full)(?:['’]s)?"
    r"(?: [\w'’/ -]{1,30}| ?name)?\]|\[(?:name|date|address|email|phone|title|position|signature)\]"
    r"|<(?:insert|your|enter|add|fill in)\b[^<>\n]{0,40}>|\blorem ipsum\b",
    re.IGNORECASE,
)
_UNDONE = re.compile(r"\b(?:TODO|FIXME|TBD)\b(?=[:\s(]|$)")
_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id"
    r"|system|user|assistant|end|eom_id)\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<s>|</s>"
)
_ROLE = re.compile(
    r"^\s{0,3}(?:#{2,4} ?(?:Response|Instruction|Input|Output|Assistant|User|Human)\s?:"
    r"|(?:assistant|human|user|system|gpt|bot)\s?[:：](?=\s|$))",
    re.IGNORECASE | re.MULTILINE,
)
_HTML = re.compile(
    r"&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,5}|#x[0-9a-f]{2,5});"
    r"|</?(?:p|br|div|span|b|i|u|em|strong|ul|ol|li|a|h[1-6]|table|tr|td|font|sup|sub)(?:\s[^<>]{0,200})?/?>",
    re.IGNORECASE,
)
_MARKUP_ASKED = re.compile(r"html|markup|<\w+|\bweb ?page|css|xml|网页|标签", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bas an? (?:AI|artificial intelligence)(?: (?:language )?(?:model|assistant))?\b,?"
    r"|^\W*(?:I['’]m|I am) (?:very |so )?(?:sorry|afraid),? (?:but )?(?:I|as)\b"
    r".{0,20}\b(?:can(?:no|['’])t|cannot|unable|not able)"
    r"|^\W*(?:I (?:cannot|can['’]t|am unable to|won['’]t) (?:assist|help|comply|fulfil|provide|answer|do that|access))"
    r"|作为(?:一个|一款|一名)?(?:AI|人工智能)(?:语言)?(?:模型|助手|程序)|^\W*(?:很?抱歉|对不起)[，,]?我(?:无法|不能)",
    re.IGNORECASE,
)
_NOTHING = frozenset({"none", "null", "nan", "n/a", "undefined", "[object object]", "nil"})
_CODE = re.compile(r"```.*?(?:```|$)|`[^`\n]*`", re.DOTALL)

REFUSES_WITHIN = 200
"""Characters from the beginning of an answer in which a refusal stands; further on it may be quoted."""

MOST_CUT = 100_000
"""Answers that may be cut off and are held until it is known how the others end."""

CUT_WORDS, ENDED_SHARE = 20, 0.8
"""Words from which an answer must end like a sentence, if so many of the others do."""

_ENDED = re.compile(r"[.!?…。！？:：;；)\]}>\"'”’»」』】`|*_~$%—\d\W]\s*$|[#@]\w+\s*$|[\"”’'*] ?[-–—~] ?[\w. ]{2,40}$")


class Texts:
    """Sees rows in any order; only answers that may be cut off wait for the end."""

    def __init__(self) -> None:
        self._ended = self._answers = 0
        self._cut: list[Finding] = []

    def see(self, row: Row) -> Iterator[Finding]:
        """Yields what is wrong with the texts of a row."""
        texts = list(said(row))
        asked = "\n".join(text.text for text in texts if text.role != "assistant")
        for text in texts:
            yield from wrong_characters(row.place, text)
            if text.part == "call":
                continue
            yield from _leftovers(row.place, text)
            if text.learnt and text.part == "content":
                yield from _answer(row.place, text, asked)
                self._look_at_end(row.place, text)
        yield from _echo(row, texts)

    def finish(self) -> Iterator[Finding]:
        """Yields the answers that are cut off, if most others end properly."""
        if self._answers and self._ended >= ENDED_SHARE * self._answers:
            yield from self._cut

    def _look_at_end(self, place: str, text: Said) -> None:
        last = text.text.rstrip().rpartition("\n")[2]
        if len(text.text) < 4 * CUT_WORDS or len(text.text.split()) < CUT_WORDS:
            return
        self._answers += 1
        if _ENDED.search(last) or re.match(r"\s*(?:[-*•|#>]|\d+[.)])", last) or len(last.split()) < 6 or "  " in last:
            self._ended += 1
        elif len(self._cut) < MOST_CUT:
            why = f"at least {ENDED_SHARE:.0%} of the answers end a sentence"
            fix = "write the rest of the answer, or remove the row"
            whole = text.text.rstrip()
            shown = snippet(whole, max(0, len(whole) - min(SNIPPET, len(last))), len(whole))
            self._cut.append(
                Finding("answer-cut", "warning", place, text.field, "the answer breaks off", why, fix, shown)
            )


def _leftovers(place: str, text: Said) -> Iterator[Finding]:
    """Yields what another program left in a text."""
    told = text.text
    if ("{{" in told or "[" in told or "<" in told or "orem" in told) and (
        found := _PLACEHOLDER.search(_code_out(told))
    ):
        what, why = f"{found.group()} was never filled in", "the model learns to say it as it stands"
        yield _of("placeholder", place, text, found, what, why, "fill it in, or remove the row")
    elif text.learnt and (found := _UNDONE.search(_code_out(told))):
        what, why = f"{found.group()} stands in the answer", "somebody meant to finish it"
        yield _of("placeholder", place, text, found, what, why, "finish the answer, or remove the row")
    if ("<" in told or "[" in told) and (found := _CONTROL.search(told)):
        what, why = f"{found.group()} is spelt out", "it is learnt as text; the template writes its own"
        yield _of("control-token", place, text, found, what, why, f"remove {found.group()}, or split it into messages")
    if "think>" in told and told.count("<think>") != told.count("</think>"):
        opened, closed = told.count("<think>"), told.count("</think>")
        what, why = f"{opened} <think> and {closed} </think>", "reasoning and answer cannot be told apart"
        fix = 'put the reasoning into "reasoning_content"'
        yield Finding("think-unbalanced", "warning", place, text.field, what, why, fix, snippet(told))
    if (":" in told or "：" in told) and (found := _ROLE.search(told)):
        word = found.group().strip()
        what, why = f"{word} begins a line of a message", "turns of another format may stand in one message"
        yield _of("role-in-text", place, text, found, what, why, "split the text into messages, one a turn")


def _answer(place: str, text: Said, asked: str) -> Iterator[Finding]:
    """Yields what is wrong with what is learnt."""
    told = text.text.strip()
    if told.lower() in _NOTHING or not any(c.isalnum() for c in told):
        what, why = (
            f"the answer is {told!r}",
            "it says nothing" if told.lower() not in _NOTHING else "a program wrote it",
        )
        fix = "write the answer, or remove the row"
        yield Finding("answer-says-nothing", "warning", place, text.field, what, why, fix, snippet(told))
    if found := _REFUSAL.search(told[:REFUSES_WITHIN]):
        what, why = (
            "the answer refuses, or speaks as an AI language model",
            "refusals spread to what the model could answer",
        )
        yield _of("answer-refuses", place, text, found, what, why, "keep it only if the model is to refuse this", told)
    if ("&" in told or "<" in told) and not _MARKUP_ASKED.search(asked) and (found := _HTML.search(_code_out(told))):
        what, why = (
            f"{found.group()[:40]} is left in the answer",
            "the model learns to write HTML that nobody asked for",
        )
        fix = "python -c 'import html, sys; print(html.unescape(sys.stdin.read()))'   # and remove the tags"
        yield _of("html-left", place, text, found, what, why, fix, _code_out(told))


def _echo(row: Row, texts: list[Said]) -> Iterator[Finding]:
    """Yields an answer that is its prompt."""
    for before, text in pairwise(texts):
        if (
            text.learnt
            and text.part == "content"
            and before.role == "user"
            and abs(len(before.text) - len(text.text)) < 20
        ):
            told = units(text.text)
            if len(told) > 2 and told == units(before.text):
                what, why = "the answer is the prompt again", "the model learns to repeat what it is told"
                fix = "write the answer, or remove the row"
                yield Finding("answer-is-prompt", "warning", row.place, text.field, what, why, fix, snippet(text.text))


def _code_out(text: str) -> str:
    """Leaves code out, where brackets and TODO are its own."""
    return _CODE.sub(" ", text) if "`" in text else text


def _of(
    code: str, place: str, text: Said, found: re.Match[str], what: str, why: str, fix: str, within: str = ""
) -> Finding:
    shown = snippet(found.string, *found.span()) if not within else snippet(within, *found.span())
    return Finding(code, "warning", place, text.field, what, why, fix, shown)
