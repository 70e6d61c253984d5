"""What a teacher is asked about a chunk."""

from __future__ import annotations

import hashlib
import json

from finetune.draft.chunks import Chunk, tokens
from finetune.draft.settings import Kind, Settings

TOKENS_A_PAIR = 120
"""That a question, its answer and its quote make in a reply: a guess for the forecast. Thinking comes on top."""

ROLE = (
    "You write examples that a smaller model will learn from. You know only the passage you are given, "
    "you invent nothing, and you reply with one JSON object and no other word."
)

QA = """Write {number} different questions that a reader could have, each with its answer.

- The passage alone answers each question, completely. If it answers fewer than {number}, write fewer.
- A question makes sense to someone who has never seen the passage: name the thing it is about, and never speak of a \
passage, text, document or section, or of anything "above".
- The answer is whole sentences, correct, and as long as the question needs. It adds no fact, name or number.
- "quote" copies, letter for letter, the one or two sentences of the passage that the answer rests on.

Reply with {{"pairs": [{{"question": "...", "answer": "...", "quote": "..."}}]}}"""

INSTRUCTION = """Write {number} different tasks that someone could set about this passage, each with its solution.

- The passage will stand below the task. It alone is enough to solve it. If it supports fewer than {number} good \
tasks, write fewer.
- Vary them: extract, summarise, rewrite, compare, list, explain, decide.
- The solution does what the task says, and adds no fact, name or number.
- "quote" copies, letter for letter, the one or two sentences of the passage that the solution rests on most.

Reply with {{"pairs": [{{"question": "the task", "answer": "the solution", "quote": "..."}}]}}"""

LANGUAGES = {
    True: "Write questions and answers in {language}; the quote stays as it is.",
    False: "Write in the language of the passage.",
}


def messages(chunk: Chunk, settings: Settings) -> list[dict[str, str]]:
    """Words the question about a chunk."""
    asked = {Kind.qa: QA, Kind.instruction: INSTRUCTION}[settings.kind].format(number=settings.per_chunk)
    language = LANGUAGES[bool(settings.language)].format(language=settings.language)
    place = f"It stands under: {' > '.join(chunk.heading)}\n" if chunk.heading else ""
    passage = f"{place}<passage>\n{chunk.text.strip()}\n</passage>"
    return [{"role": "system", "content": ROLE}, {"role": "user", "content": f"{asked}\n{language}\n\n{passage}"}]


def identity(chunk: Chunk, settings: Settings) -> str:
    """Names a question by its content: a chunk that was edited, another model or wish is another question."""
    told = json.dumps([settings.model, messages(chunk, settings)], ensure_ascii=True)
    return hashlib.sha256(told.encode()).hexdigest()


def asked_tokens(chunk: Chunk, settings: Settings) -> float:
    """Estimates what a question makes in tokens."""
    return sum(tokens(message["content"]) for message in messages(chunk, settings))
