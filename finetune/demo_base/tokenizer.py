"""A small tokenizer that cuts text exactly as Qwen3.5's does, and knows fewer words.

Same normaliser, same cutting expression, same added tokens in the same order; only the merges are learnt here, from
the text given. Qwen3.6 speaks with Qwen3.5's tokenizer, and with a chat template of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX

from finetune.errors import ProofFailed

ADDED_TOKENS: tuple[tuple[str, bool], ...] = (
    ("<|endoftext|>", True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<|object_ref_start|>", True),
    ("<|object_ref_end|>", True),
    ("<|box_start|>", True),
    ("<|box_end|>", True),
    ("<|quad_start|>", True),
    ("<|quad_end|>", True),
    ("<|vision_start|>", True),
    ("<|vision_end|>", True),
    ("<|vision_pad|>", True),
    ("<|image_pad|>", True),
    ("<|video_pad|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<|fim_prefix|>", False),
    ("<|fim_middle|>", False),
    ("<|fim_suffix|>", False),
    ("<|fim_pad|>", False),
    ("<|repo_name|>", False),
    ("<|file_sep|>", False),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
    ("<|audio_start|>", True),
    ("<|audio_end|>", True),
    ("<tts_pad>", True),
    ("<tts_text_bos>", True),
    ("<tts_text_eod>", True),
    ("<tts_text_bos_single>", True),
    ("<|audio_pad|>", True),
)
"""Text, and whether decoding may skip it. They follow the learnt tokens.

Source: tokenizer.json of Qwen3.5, ids 248044 to 248076, which are those of Qwen3.6 too.
"""

NAMED_TOKENS = {
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "audio_token": "<|audio_pad|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
"""`extra_special_tokens` of the published tokenizer_config.json: the names by which processors ask for them."""

SAMPLE = "Dr. Müller's 2 ½-page note:\n\n\tnaïve 東京 🙂 <think>\nx_1 = 0.75;\n</think>\n\ndone<|im_end|>\n  "
"""Accents, digits, spaces, added tokens: a reader that cuts otherwise than the writer shows it here."""


def serving_template() -> str:
    """Reads the chat template that Qwen3.6 is served with, from the trl package.

    Never its sibling `qwen3_6_training.jinja`, which renders other text (an empty think block in every turn).
    """
    return (files("trl") / "chat_templates" / "qwen3_6.jinja").read_text(encoding="utf-8")


def train_tokenizer(texts: Iterable[str], num_tokens: int) -> Tokenizer:
    """Learns byte-level BPE merges from the texts, then appends the added tokens.

    Args:
        texts: What to learn merges from.
        num_tokens: The most tokens in all: 256 bytes, merges, and the 33 added. A small text ends with fewer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens - len(ADDED_TOKENS),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in ADDED_TOKENS])
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja.

    The class is named Qwen2Tokenizer as in the published file; with `model_type: qwen3_5` in the config.json beside
    it, AutoTokenizer makes a Qwen3_5Tokenizer of it.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": _added_tokens_by_id(tokenizer),
        "additional_special_tokens": [text for text, special in ADDED_TOKENS[1:14] if special],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": NAMED_TOKENS,
        "model_max_length": 262_144,
        "pad_token": "<|endoftext|>",
        "pretokenize_regex": PRETOKENIZE_REGEX,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(serving_template(), encoding="utf-8")


def _added_tokens_by_id(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        str(tokenizer.token_to_id(text)): {"content": text, **flags, "special": special}
        for text, special in ADDED_TOKENS
    }


def prove_tokenizer(tokenizer: Tokenizer, folder: Path) -> Any:
    """Reads the folder as everyone does and compares; hands on the tokenizer that was read.

    Raises:
        ProofFailed: AutoTokenizer cuts a text otherwise than the tokenizer that was written.
    """
    read = AutoTokenizer.from_pretrained(folder)
    for text in (SAMPLE, *(text for text, _ in ADDED_TOKENS)):
        written_ids = tokenizer.encode(text).ids
        read_ids = read(text)["input_ids"]
        if read_ids != written_ids:
            raise ProofFailed(
                "the tokenizer that was read back cuts text differently",
                where=str(folder / "tokenizer.json"),
                why=f"{text!r}: written {written_ids}, read {read_ids}",
            )
    return read
