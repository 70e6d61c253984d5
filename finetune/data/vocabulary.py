"""The base's tokenizer, in two voices: control tokens to ids, and text to ids that are never control tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from finetune.errors import ArtifactError
from finetune.shards import read_json, refetch


@dataclass(frozen=True)
class Vocabulary:
    """What turns pieces into ids."""

    text: Tokenizer
    """The tokenizer without any added token: whatever it is given, it spells out."""
    control: dict[str, int]
    """Each added token and its id."""
    sha256: str
    """Of tokenizer.json."""

    @cached_property
    def control_starts(self) -> str:
        """The characters that a control token can start with; `<` alone for Qwen."""
        return "".join(sorted({token[0] for token in self.control}))

    @cached_property
    def _control_names(self) -> dict[int, str]:
        return {i: token for token, i in self.control.items()}

    def encode(self, pieces: Sequence[tuple[str, bool]]) -> list[list[int]]:
        """Encodes (text, is it a control token?) pieces, each on its own."""
        encoded = iter(self.encode_texts([text for text, control in pieces if not control]))
        return [[self.control[text]] if control else next(encoded) for text, control in pieces]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes texts, each on its own, none of them as a control token."""
        return [encoding.ids for encoding in self.text.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Gives the text of ids, control tokens spelt out."""
        names = self._control_names
        out: list[str] = []
        run: list[int] = []
        for i in ids:
            if i in names:
                out += [self.text.decode(run, skip_special_tokens=False), names[i]]
                run = []
            else:
                run.append(i)
        return "".join([*out, self.text.decode(run, skip_special_tokens=False)])


def read_vocabulary(folder: Path) -> Vocabulary:
    """Reads a base's tokenizer.json.

    Raises:
        ArtifactError: there is none, or it is not a tokenizer.
    """
    file = folder / "tokenizer.json"
    told = read_json(file, "the base's tokenizer")
    try:
        control = {token["content"]: token["id"] for token in told["added_tokens"]}
        text = Tokenizer.from_str(json.dumps(told | {"added_tokens": []}))
    except Exception as error:
        if not isinstance(error, KeyError | TypeError) and type(error) is not Exception:  # all that tokenizers raises
            raise
        why, fix = f"{type(error).__name__}: {error}", refetch(folder, file.name)
        raise ArtifactError("the base's tokenizer cannot be used", where=str(file), why=why, fix=fix) from None
    return Vocabulary(text, control, hashlib.sha256(file.read_bytes()).hexdigest())
