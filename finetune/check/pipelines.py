"""spaCy's pipelines that find names of people: opened by name or folder, each for the texts of its own language."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune.errors import OutsideError, RecipeError

OPTION = "--presidio"

PACKAGE = re.compile(r"[a-z]{2,3}_\w+")
"""How spaCy calls the packages of its pipelines."""

INSTALL = "pip install 'finetune-proven[presidio]'"

PACKAGES = ("presidio_analyzer", "spacy")

PEOPLE = frozenset(("PERSON", "PER", "PRS", "PS", "persName", "Person"))
"""What pipelines call the name of a person. Source: the labels of spaCy's own, 3.8: English PERSON, German PER,
Swedish PRS, Korean PS, Polish persName."""

UNNEEDED = frozenset(("tagger", "morphologizer", "parser", "senter", "attribute_ruler", "lemmatizer"))
"""What says nothing of names."""

NAMING = frozenset(("tok2vec", "transformer", "curated_transformer", "ner"))
"""What does, and needs none of the others."""

PIECE = 50_000
"""Characters of a text that a pipeline is given at once; it refuses a million."""

TEXTS = 64
"""That go through a network together."""

CODES = {
    "English": ("en",),
    "German": ("de",),
    "French": ("fr",),
    "Spanish": ("es",),
    "Italian": ("it",),
    "Portuguese": ("pt",),
    "Dutch": ("nl",),
    "Chinese": ("zh",),
    "Japanese": ("ja",),
    "Korean": ("ko",),
    "Greek": ("el",),
    "Cyrillic": ("ru", "uk", "mk", "bg", "sr"),
    "Armenian": ("hy",),
    "Hebrew": ("he",),
    "Arabic": ("ar", "fa", "ur"),
    "Devanagari": ("hi", "mr", "ne", "sa"),
    "Bengali": ("bn",),
    "Tamil": ("ta",),
    "Telugu": ("te",),
    "Thai": ("th",),
}
"""The languages that a check guesses, as spaCy writes them; of a script, all that write it."""

ANY = "xx"
"""The language of a pipeline of many."""

_OTHER_SCRIPTS = frozenset(code for name in [*CODES][7:] for code in CODES[name])


@dataclass(frozen=True)
class Pipeline:
    """One that is open."""

    name: str
    language: str
    run: Any
    """spaCy's `Language`."""
    names_people: bool
    note: str = ""
    """What spaCy or we have to say of it."""

    def people(self, texts: Sequence[str]) -> Iterator[list[tuple[int, int]]]:
        """Finds the names of people in each text."""
        pieces = [(piece, (i, start)) for i, text in enumerate(texts) for start, piece in _pieces(text)]
        found: list[list[tuple[int, int]]] = [[] for _ in texts]
        for doc, (i, offset) in self.run.pipe(pieces, as_tuples=True, batch_size=TEXTS):
            found[i] += [(offset + e.start_char, offset + e.end_char) for e in doc.ents if e.label_ in PEOPLE]
        yield from found


def open_pipelines(names: Sequence[str]) -> tuple[Pipeline, ...]:
    """Opens pipelines, by the name of an installed package or by folder.

    Raises:
        OutsideError: the extra or a pipeline is not installed, or one is damaged or lacks a package.
        RecipeError: a folder holds no pipeline, or two are of one language.
    """
    _check_installed(names[0])
    made: dict[str, Pipeline] = {}
    for name in names:
        pipeline = _open(name)
        if other := made.get(pipeline.language):
            why = f"{other.name} and {name} are both of {pipeline.language}"
            raise RecipeError("a language has one pipeline", where=OPTION, why=why, fix=f"{OPTION} {other.name}")
        made[pipeline.language] = pipeline
    return tuple(made.values())


def pipeline_of(language: str, row: str, pipelines: Sequence[Pipeline]) -> Pipeline | None:
    """Chooses the pipeline of a text.

    Args:
        language: of the text, as guessed.
        row: the commonest of the row's texts, which counts where the text's own cannot be told.
        pipelines: in the order in which they were named; a short text of Latin letters in a row that tells
            nothing either goes to the first that reads them.
    """
    by_code = {pipeline.language: pipeline for pipeline in pipelines}
    for told in (language, row) if language not in CODES else (language,):
        for code in (*CODES.get(told, ()), *((ANY,) if told in CODES else ())):
            if code in by_code:
                return by_code[code]
    if language == "Latin letters":
        return next((pipeline for pipeline in pipelines if pipeline.language not in _OTHER_SCRIPTS), None)
    return by_code.get(ANY)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Cuts a long text at the ends of lines or sentences, so that no name is cut; at spaces where there are none."""
    start = 0
    while len(text) - start > PIECE:
        ends = (text.rfind(mark, start + 1, start + PIECE) for mark in ("\n", ". ", "。", " "))
        end = next((end + 1 for end in ends if end > 0), start + PIECE)
        yield start, text[start:end]
        start = end
    yield start, text[start:]


def _check_installed(name: str) -> None:
    """Refuses to go on without the extra.

    Raises:
        OutsideError: it is not there.
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        why = f"{' and '.join(missing)} cannot be imported"
        raise OutsideError("names of people take an extra", where=f"{OPTION} {name}", why=why, fix=INSTALL)


def _open(name: str) -> Pipeline:
    """Opens one pipeline.

    Raises:
        OutsideError: it is not installed, damaged, or lacks a package.
        RecipeError: the folder holds none.
    """
    import spacy

    if not spacy.util.is_package(name):
        _check_folder(name)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            run = spacy.load(name)
        except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise OutsideError(
                f"the pipeline {name} does not open",
                where=f"{OPTION} {name}",
                why=why,
                fix=_anew(name),
            ) from error
    kinds = {run.get_pipe_meta(part).factory for part in run.pipe_names}
    if kinds <= UNNEEDED | NAMING:
        for part in [part for part in run.pipe_names if run.get_pipe_meta(part).factory in UNNEEDED]:
            run.disable_pipe(part)
    labels = {label for part in run.pipe_names for label in run.pipe_labels.get(part, ())}
    notes = [" ".join(str(each.message).split()) for each in told if "[W095]" in str(each.message)]
    if not labels & PEOPLE:
        notes.append(f"the pipeline {name} finds no names of people: {_has(run.pipe_names, labels)}")
    return Pipeline(name, run.lang, run, bool(labels & PEOPLE), "; ".join(notes))


def _anew(name: str) -> str:
    """Says how to get a pipeline again."""
    if PACKAGE.fullmatch(name):
        return f"python -m spacy download {name}"
    return f"{OPTION} en_core_web_sm   # or copy {shlex.quote(name)} anew from where it came"


def _has(parts: Iterable[str], labels: set[str]) -> str:
    """Says what a pipeline has instead of names."""
    if labels and "ner" in parts:
        return f"it is trained for {', '.join(sorted(labels)[:10])}"
    return f"it has neither ner nor entity_ruler, only {', '.join(parts) or 'a tokenizer'}"


def _check_folder(name: str) -> None:
    """Refuses what is neither installed nor a folder of a pipeline.

    Raises:
        OutsideError: nothing is there, and it may be a package.
        RecipeError: a file or a folder without a pipeline.
    """
    folder = Path(name)
    where = f"{OPTION} {name}"
    if not folder.exists():
        if PACKAGE.fullmatch(name):
            fix = f"python -m spacy download {name}"
            raise OutsideError(f"the pipeline {name} is not installed", where=where, why="no package has it", fix=fix)
        why = "it is neither an installed pipeline nor a folder"
        raise RecipeError(f"there is no pipeline {name}", where=where, why=why, fix=f"{OPTION} en_core_web_sm")
    if not (folder / "config.cfg").is_file():
        inner = sorted(folder.glob("*/config.cfg")) if folder.is_dir() else []
        nearest = shlex.quote(str(inner[0].parent)) if inner else "en_core_web_sm"
        why = f"{folder / 'config.cfg'} is not there"
        raise RecipeError(f"{name} is no spaCy pipeline", where=where, why=why, fix=f"{OPTION} {nearest}")
