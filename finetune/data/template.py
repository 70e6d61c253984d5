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
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune.errors import ArtifactError

MAX_POWER = 64
"""The largest exponent, and the most bits of a base, in a template's `**`; no chat needs a larger number."""


@dataclass(frozen=True)
class Template:
    """A Jinja chat template.

    The environment is that of transformers 5.23, `utils/chat_template_utils.py`, without its clock (what is learnt
    must not depend on the day) and its `generation` tag (the mask is ours); a test compares the two.
    """

    source: str

    def __reduce__(self) -> tuple[type[Template], tuple[str]]:
        """Goes to another process as its source; what Jinja compiles cannot."""
        return Template, (self.source,)

    @cached_property
    def sha256(self) -> str:
        """Identifies the template in manifests."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def compiled(self) -> jinja2.Template:
        """Compiles it, once.

        Raises:
            jinja2.TemplateSyntaxError: it is not Jinja.
        """
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise, "namespace": _Namespace}
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

        The sandbox bounds each `range` and each `**`. It does not bound their product: loops nested in loops may
        still run for hours.

        Raises:
            ValueError: the template refuses the conversation, in its own words, or fails on it.
        """
        try:
            return self.compiled.render(
                messages=list(messages),
                tools=list(tools) or None,
                add_generation_prompt=ask,
                preserve_thinking=preserve_thinking,
                enable_thinking=enable_thinking,
            )
        except jinja2.TemplateError as error:
            raise ValueError(error.message) from None
        except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError) as error:
            raise ValueError(f"it fails with {error!r}") from None


def read_template(folder: Path) -> Template:
    """Reads the serving template of a base: chat_template.jinja or, in older folders, tokenizer_config.json.

    Raises:
        ArtifactError: the folder has none, or one that is not Jinja.
    """
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    fix = f"cp chat_template.jinja {folder}   # from the base's page on the Hub"
    try:
        if file.is_file():
            source: Any = file.read_text(encoding="utf-8")
        else:
            source = json.loads(config.read_bytes())["chat_template"] if config.is_file() else None
        if not isinstance(source, str):
            raise KeyError("chat_template")
        template = Template(source)
        template.compiled  # noqa: B018  (a template that cannot be compiled is told of here)
    except KeyError:
        why = "without it nobody knows how to talk to the model"
        raise ArtifactError("the base has no chat template", where=str(file), why=why, fix=fix) from None
    except jinja2.TemplateSyntaxError as error:
        where, why = f"{file}:{error.lineno}", str(error.message)
        raise ArtifactError("the chat template is not Jinja", where=where, why=why, fix=fix) from None
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested too deep
        raise ArtifactError("the chat template cannot be read", where=str(file), why=str(error), fix=fix) from None
    return template


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, refusing powers that no memory holds; what is intercepted is not computed while compiling."""

    intercepted_binops = frozenset({"**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if abs(right) > MAX_POWER or abs(left) > 2**MAX_POWER:
            told = f"a chat template's ** takes a base of {MAX_POWER} bits and an exponent of {MAX_POWER} at most"
            raise jinja2.exceptions.SecurityError(told)
        return super().call_binop(context, operator, left, right)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace, refusing names by which a template could reach into CPython, as transformers does."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        names = dict(*rest, **kwargs)
        for name in names:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a chat template cannot store {name} on a namespace")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)
