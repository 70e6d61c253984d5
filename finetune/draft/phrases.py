"""Knows how models refuse, and how they speak of a passage that the learner will not see: English, German, Chinese."""

from __future__ import annotations

import re

_REFUSALS = (
    r"\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b",
    r"^\W*(?:I(?:'m| am) (?:sorry|unable|not able)|(?:sorry|unfortunately),? (?:but )?I\b)",
    r"^\W*I (?:cannot|can't|can not|don't know|do not know|could not|couldn't|do not have|don't have)\b",
    r"\b(?:not|never|isn't|aren't|wasn't|weren't) (?:\w+ )?"
    r"(?:mentioned|stated|specified|provided|described|given|discussed|covered|addressed|included|found|contained) "
    r"(?:anywhere )?(?:in|by) (?:the|this) (?:\w+ )?(?:passage|text|document|context|excerpt|section)",
    r"\b(?:passage|text|document|context|excerpt) (?:does not|doesn't|do not|did not) "
    r"(?:\w+ )?(?:say|mention|state|specify|provide|describe|contain|explain|give|indicate|include|tell|discuss)",
    r"\bthere is (?:no|not enough|insufficient) information\b",
    r"\bals (?:KI|künstliche Intelligenz|(?:großes )?Sprachmodell|AI)\b",
    r"^\W*(?:Es tut mir leid|Tut mir leid|Leider kann ich|Entschuldigung)",
    r"^\W*Ich (?:kann (?:(?:das|dies|diese Frage|dazu|Ihnen|dir) )?(?:leider )?(?:nicht|keine)|weiß (?:es )?nicht)",
    r"\b(?:im|in dem|in diesem) (?:\w+ )?(?:Text|Abschnitt|Dokument|Auszug) (?:\w+ ){0,2}nicht (?:\w+ )?"
    r"(?:erwähnt|genannt|angegeben|enthalten|beschrieben|erläutert)",
    r"\bnicht (?:im|in dem|in diesem) (?:\w+ )?(?:Text|Abschnitt|Dokument|Auszug) (?:\w+ )?"
    r"(?:erwähnt|genannt|angegeben|enthalten|beschrieben|erläutert)",
    r"\b(?:der|dieser) (?:\w+ )?(?:Text|Abschnitt|Auszug) (?:\w+ ){0,2}(?:enthält|nennt|erwähnt|sagt|gibt) "
    r"(?:\w+ ){0,2}(?:keine|nicht)\b",
    r"\bgeht (?:aus dem|daraus) (?:\w+ )?nicht hervor\b",
    r"作为(?:一个|一名)?(?:AI|人工智能|语言模型|大?模型)",
    r"^\W*(?:很?抱歉|对不起|我无法|我不能|我不知道)",
    r"(?:文中|文本|原文|段落|文章|材料|上文|文档|资料)[中里内]?(?:并?未|没有|并没有)(?:明确)?(?:提及|提到|说明|给出|涉及|提供|指出)",
    r"(?:無法|无法)(?:回答|确定|判断|得知|從|从)",
)

_POINTS = (
    r"\b(?:according to|based on|in|from|by|of|under|does|do|did|per) (?:the|this) "
    r"(?:above |given |provided |following |present )?(?:passage|excerpt|snippet|text)\b",
    r"\b(?:according to|based on) (?:the|this) (?:\w+ )?(?:document|section|article|context|paragraph)\b",
    r"\b(?:passage|text|document|section|article|context|paragraph|excerpt|table|example) (?:given )?(?:above|below)\b",
    r"\b(?:above|given|provided|following)[ -](?:mentioned )?"
    r"(?:passage|text|document|section|article|context|paragraph)\b",
    r"\b(?:mentioned|described|stated|listed|given|discussed|shown|presented) (?:above|below|here)\b",
    r"\b(?:mentioned|described|stated|listed|given|discussed|provided|presented) (?:in|by) (?:the|this) "
    r"(?:document|section|article|context|paragraph|text|passage)\b",
    r"\bthis (?:passage|excerpt|snippet|text|paragraph|section|document|article)\b",
    r"\b(?:laut|gemäß|nach) (?:dem |diesem |des )?(?:obigen |vorliegenden )?"
    r"(?:Text|Dokument|Abschnitt|Auszug|Passage)",
    r"\b(?:im|in diesem|in dem|aus dem|aus diesem) (?:obigen |vorliegenden |gegebenen )?"
    r"(?:Text|Textabschnitt|Abschnitt|Auszug)\b",
    r"\b(?:in diesem|im obigen|im vorliegenden) Dokument\b",
    r"\b(?:oben|unten) (?:genannt|erwähnt|beschrieben|stehend|aufgeführt)",
    r"\bdieser? (?:Text|Textabschnitt|Abschnitt|Auszug|Passage)\b",
    r"上文|上述|本文|本段|文中|原文|该段|这段(?:话|文字|文本)|(?:根据|依据|按照)(?:该|这篇?|以上|所给|给定)?(?:文章|文本|段落|材料|文档|内容)",
)

_BARE = re.compile(
    r"\bthe (passage|excerpt|snippet|text|author|paragraph)\b|\bder (textabschnitt|auszug|text)\b", re.IGNORECASE
)

_REFUSAL = re.compile("|".join(_REFUSALS), re.IGNORECASE)
_POINTING = re.compile("|".join(_POINTS), re.IGNORECASE)


def refusal(answer: str) -> str:
    """Gives the words by which an answer refuses; empty if it does not."""
    found = _REFUSAL.search(answer)
    return found[0].strip() if found else ""


def pointing(said: str, passage: str) -> str:
    """Gives the words by which a question or an answer speaks of a passage that is not there; empty if it does not.

    Args:
        said: the question or answer.
        passage: where "the text" may stand for a text that is spoken of, as in a manual of an editor.
    """
    if found := _POINTING.search(said):
        return found[0].strip()
    bare = _BARE.search(said)
    if bare and not re.search(rf"\b{bare[1] or bare[2]}", passage, re.IGNORECASE):
        return bare[0]
    return ""
