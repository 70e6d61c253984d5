"""Reads PDF: the text layer of each page. A page that is only a picture has none, and that is told."""

from __future__ import annotations

import io
import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from finetune.draft.document import Document, Unreadable
from finetune.draft.web import INSTALL
from finetune.errors import OutsideError

DAMAGED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, AssertionError, OSError)
"""What pypdf 7.1 lets through of a file that is not as the standard has it, besides its own errors."""


def pdf(file: Path, raw: bytes) -> Document:
    """Reads a PDF; places are pages.

    Raises:
        OutsideError: pypdf is missing.
        Unreadable: it is damaged, locked by a password, or holds pictures of text and no text.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError
    except ImportError as error:
        raise OutsideError("a package is missing", where=str(file), why="pypdf reads PDF", fix=INSTALL) from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it warns of, we tell if it matters
    name = shlex.quote(str(file))
    try:
        pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(raw)).pages]
    except (FileNotDecryptedError, DependencyError) as error:
        fix = f"qpdf --decrypt --password=... {name} {shlex.quote(str(file.with_suffix('.open.pdf')))}"
        raise Unreadable("the PDF is encrypted", str(error), fix) from error
    except (PyPdfError, *DAMAGED) as error:
        why = f"{type(error).__name__}: {error}"
        fix = f"qpdf {name} {shlex.quote(str(file.with_suffix('.mended.pdf')))}"
        raise Unreadable("the PDF is damaged", f"{why:.200}", fix) from error
    empty = [number for number, text in enumerate(pages, 1) if not text.strip()]
    ocr = f"ocrmypdf --skip-text {name} {shlex.quote(str(file.with_suffix('.ocr.pdf')))}"
    if len(empty) == len(pages):
        raise Unreadable(
            "the PDF holds no text", f"its pages ({len(pages)}) are pictures or empty; was it scanned?", ocr
        )
    remark = f"{len(empty)} of {len(pages)} pages hold no text ({_listed(empty)}); if scanned: {ocr}" if empty else ""
    return _joined(str(file), pages, remark)


def _joined(file: str, pages: Sequence[str], remark: str) -> Document:
    """Sets page after page; a sentence may run over the end of one."""
    parts: list[str] = []
    starts: list[int] = []
    length = 0
    for page in pages:
        text = re.sub(r"\r\n?|[\0\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "\n", page).strip()
        text = text.encode("utf-8", "replace").decode()  # half characters, of a font's wrong table
        whole = re.search(r"[.!?:。！？][\"'”’»)\]]*$", text)
        starts.append(length)
        parts.append(text + ("\n\n" if whole else "\n"))
        length += len(parts[-1])
    return Document(file, "".join(parts), (), "pages", tuple(starts), tuple(range(1, len(starts) + 1)), remark)


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8])
    return f"{shown}, …" if len(numbers) > 8 else shown
