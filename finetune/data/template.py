"""The base's chat template, run as transformers runs it, without importing transformers (or torch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune.errors import ArtifactError


@dataclass(frozen=True)
class Template:
    """A Jinja chat template.

    The environment is that of transformers 5.23, `utils/chat_template_utils.py`; a test compares the two.
    """

    source: str

    @cached_property
    def sha256(self) -> str:
        """Identifies the template in manifests."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        return environment.from_string(self.source)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        *,
        ask: bool = False,
        preserve_thinking: bool = False,
        enable_thinking: bool = True,
    ) -> str:
        """Renders a conversation; `ask` adds the prompt for the assistant's next turn.

        Raises:
            ValueError: the template refuses the conversation, in its own words.
        """
        try:
            return self._compiled.render(
                messages=list(messages),
                tools=list(tools) or None,
                add_generation_prompt=ask,
                preserve_thinking=preserve_thinking,
                enable_thinking=enable_thinking,
            )
        except jinja2.TemplateError as error:
            raise ValueError(error.message) from None


def read_template(folder: Path) -> Template:
    """Reads the serving template of a base.

    Raises:
        ArtifactError: the folder has none, or one that is not Jinja.
    """
    file = folder / "chat_template.jinja"
    try:
        template = Template(file.read_text(encoding="utf-8"))
        template._compiled  # noqa: B018  (compiles it)
    except FileNotFoundError:
        config = folder / "tokenizer_config.json"
        source = json.loads(config.read_text()).get("chat_template") if config.is_file() else None
        if not isinstance(source, str):
            raise ArtifactError(
                "the base has no chat template",
                where=str(file),
                why="without it nobody knows how to talk to the model",
                fix=f"cp chat_template.jinja {folder}   # from the base's page on the Hub",
            ) from None
        return Template(source)
    except jinja2.TemplateSyntaxError as error:
        raise ArtifactError(
            "the chat template is not Jinja", where=f"{file}:{error.lineno}", why=str(error.message)
        ) from None
    return template


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)
