"""Answers of a tuned model, asked with exactly the prompt it was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.generation import BaseStreamer

from finetune.data import Renderer
from finetune.data.template import read_template
from finetune.data.vocabulary import read_vocabulary
from finetune.errors import ArtifactError, RecipeError
from finetune.hardware import detect
from finetune.hub import fetch
from finetune.model import base_alone, compute_device, load_adapter, load_base
from finetune.plan import Plan, read_plan
from finetune.recipe import load
from finetune.run import Run, anew, atomic, manifest, resume
from finetune.shape import fingerprint

ENDS = ("<|im_end|>", "<|endoftext|>")

Ask = Callable[[Sequence[dict[str, Any]], Callable[[str], None]], str]
"""Asks for the next turn of a conversation, showing the text as it comes."""


@dataclass(frozen=True)
class Tuned:
    """A tuned model and how it is asked."""

    model: Any
    renderer: Renderer
    thinking: bool
    adapter: bool
    """Whether the base can be asked too, by leaving the adapter out."""

    @property
    def ends(self) -> list[int]:
        """Ids that end a turn."""
        return [self.renderer.vocabulary.control[token] for token in ENDS]


def open_tuned(run: Run, cache: Path | None = None) -> Tuned:
    """Loads what a run has trained, with the settings it was trained with.

    Args:
        run: the run.
        cache: the folder in which quantised bases are kept for the next start; none is kept without one.

    Raises:
        ArtifactError: the run did not finish, or its plan, base or template is another one now.
    """
    base, plan, renderer, thinking = _settings(run)
    full = plan.method == "full"
    model = load_base(_whole(run.weights) if full else base, plan, cache=cache)
    if not full:
        model = load_adapter(model, run.adapter)
    return Tuned(model.eval(), renderer, thinking, not full)


def open_base(run: Run, cache: Path | None = None) -> Tuned:
    """Loads the base of a run alone, to be asked as the tuned model is.

    Args:
        run: the run.
        cache: as `open_tuned` takes it.

    Raises:
        ArtifactError: as `open_tuned` does.
    """
    base, plan, renderer, thinking = _settings(run)
    return Tuned(load_base(base, plan, cache=cache).eval(), renderer, thinking, False)


def _settings(run: Run) -> tuple[Path, Plan, Renderer, bool]:
    """Gives the base's folder, the plan for this machine, how the run renders, and whether it asks with thinking."""
    recipe, told = load(run.recipe), manifest.read_begun(run.manifest)
    base = fetch(recipe.base, recipe.base_path, recipe.revision)
    hardware = detect()
    dtype = "bfloat16" if hardware.device == "cuda" else "float32"
    plan = replace(read_plan(run.plan), device=hardware.device, dtype=dtype)
    renderer = Renderer(
        template=read_template(base),
        vocabulary=read_vocabulary(base),
        system=told["serving"]["system"],
        preserve_thinking=told["serving"]["preserve_thinking"],
        learn_reasoning=recipe.data.thinking != "never",
    )
    _check_unchanged(run, told["contract"], base, renderer, plan.method)
    return base, plan, renderer, told["serving"]["thinking"]


def _check_unchanged(run: Run, begun: Mapping[str, Any], base: Path, renderer: Renderer, method: str) -> None:
    """Compares what the answers depend on with what the run was begun with."""
    fix = f"put it back as it was, or train anew: {anew(run)}"
    for what, where, was, now in (
        ("the run's plan", run.plan, begun["plan"], atomic.sha256(run.plan)),
        ("the base's chat template", base, begun["template"], renderer.template.sha256),
        ("the base", base, begun["base"], begun["base"] if method == "full" else fingerprint(base)),
    ):
        if was != now:
            why = "the tuned model would be asked as it never was"
            raise ArtifactError(f"{what} is not the one that was trained with", where=str(where), why=why, fix=fix)


def answer(
    tuned: Tuned,
    messages: Sequence[dict[str, Any]],
    *,
    as_base: bool = False,
    temperature: float | None = None,
    max_new_tokens: int = 512,
    seed: int = 0,
    show: Callable[[str], None] = lambda text: None,
) -> str:
    """Asks for the next turn.

    Args:
        tuned: the model.
        messages: the conversation so far; the last message is the user's.
        as_base: leave the adapter out.
        temperature: of the sampling; 0 takes the likeliest token, None what the base's generation_config says.
        max_new_tokens: the most tokens of the answer.
        seed: of the sampling.
        show: takes the text as it comes.

    Returns:
        The answer without its end of turn.
    """
    if tuned.renderer.system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": tuned.renderer.system}, *messages]
    ids = tuned.renderer.prompt_ids(messages, (), tuned.thinking)
    device = compute_device(tuned.model)
    prompt = torch.tensor([ids], device=device)  # (1, tokens)
    sampling: dict[str, Any] = {} if temperature is None else {"do_sample": temperature > 0}
    if temperature:
        sampling["temperature"] = temperature
    elif temperature == 0:
        sampling |= {"temperature": None, "top_k": None, "top_p": None}
    torch.manual_seed(seed)
    streamer = _Shown(tuned.renderer, set(tuned.ends), show)
    with torch.inference_mode(), base_alone(tuned.model) if as_base else nullcontext():
        out = tuned.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_new_tokens,
            eos_token_id=tuned.ends,
            pad_token_id=tuned.ends[-1],
            use_cache=True,
            streamer=streamer,
            **sampling,
        )
    told = [i for i in out[0, len(ids) :].tolist() if i not in tuned.ends]
    return tuned.renderer.vocabulary.decode(told)


def voices(
    run: Run, *, base: bool, temperature: float | None, max_new_tokens: int, cache: Path | None = None
) -> dict[str, Ask]:
    """Opens a run to be talked to: who answers -> asks for the next turn of a conversation.

    Args:
        run: the run.
        base: whether the base answers too, first.
        temperature: as `answer` takes it.
        max_new_tokens: the most tokens of an answer.
        cache: as `open_tuned` takes it.

    Raises:
        ArtifactError: as `open_tuned` does.
        RecipeError: there is no base beside the tuned model.
    """
    tuned = open_tuned(run, cache)
    if base and not tuned.adapter:
        raise RecipeError("method full has no base beside it", why="every weight was trained", fix="leave out --base")

    def of(as_base: bool) -> Ask:
        return lambda messages, show: answer(
            tuned, messages, as_base=as_base, temperature=temperature, max_new_tokens=max_new_tokens, show=show
        )

    return {who: of(who == "base") for who in (("base", "tuned") if base else ("tuned",))}


class _Shown(BaseStreamer):
    """Shows text as soon as its last character is whole."""

    def __init__(self, renderer: Renderer, ends: set[int], show: Callable[[str], None]) -> None:
        self.renderer, self.ends, self.show = renderer, ends, show
        self.ids: list[int] = []
        self.shown = 0
        self.prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt first, then each new id."""
        if self.prompt:
            self.prompt = False
            return
        self.ids += [i for i in value.flatten().tolist() if i not in self.ends]
        text = self.renderer.vocabulary.decode(self.ids)
        if not text.endswith("�"):
            self.show(text[self.shown :])
            self.shown = len(text)

    def end(self) -> None:
        """Shows what was held back."""
        self.show(self.renderer.vocabulary.decode(self.ids)[self.shown :])


def _whole(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ArtifactError("the run has no weights yet", where=str(folder), fix=resume(folder.parent))
    return folder
