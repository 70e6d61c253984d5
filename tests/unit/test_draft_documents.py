"""Documents of four kinds are read with their headings and places; what cannot be read is told with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from draft_files import PAGE, pdf_bytes

from finetune.draft.chunks import chunks_of
from finetune.draft.document import Document
from finetune.draft.documents import read_documents
from finetune.errors import DataError


def read(file: Path) -> Document:
    (document,) = read_documents([file]).documents
    return document


def made(folder: Path, name: str, content: bytes | str) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def problems(*named: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_documents(named)
    return [str(problem) for problem in caught.value.problems]


def test_html_is_read_without_menus_and_scripts_and_knows_its_lines(tmp_path: Path) -> None:
    document = read(made(tmp_path, "page.html", PAGE))
    assert document.text == (
        "# Pump & motor\n\nThe pump runs at 230 V.\n\n## Service\n\nOil it monthly. Check the belt.\n\n"
        "- one\n- two\n  \n".replace("  \n", "")
        + "Part | Price\nBelt | 12.50\nmake  clean\n  all\n\n"
    )
    assert [(heading.level, heading.title) for heading in document.headings] == [(1, "Pump & motor"), (2, "Service")]
    assert document.place(document.text.index("The pump")) == 9
    assert document.path(document.text.index("Belt")) == ("Pump & motor", "Service")
    lines = PAGE.splitlines()
    assert "Belt" in lines[document.place(document.text.index("Belt")) - 1]


def test_html_in_the_encoding_that_it_declares_is_read(tmp_path: Path) -> None:
    page = '<html><head><meta charset="gb18030"></head><body><p>保修期为两年。</p></body></html>'
    assert read(made(tmp_path, "a.html", page.encode("gb18030"))).text == "保修期为两年。\n\n"


def test_html_nested_three_thousand_deep_is_read(tmp_path: Path) -> None:
    assert read(made(tmp_path, "deep.html", "<div>" * 3000 + "deep down" + "</div>" * 3000)).text == "deep down\n\n"


def test_a_pdf_knows_its_pages_and_a_sentence_runs_over_the_end_of_one(tmp_path: Path) -> None:
    document = read(made(tmp_path, "a.pdf", pdf_bytes("The pump runs", "at 230 volts.", "Oil it monthly.")))
    assert document.text == "The pump runs\nat 230 volts.\n\nOil it monthly.\n\n"
    assert document.unit == "pages"
    assert [document.place(document.text.index(word)) for word in ("pump", "volts", "Oil")] == [1, 2, 3]
    (chunk,) = chunks_of(document, 800)
    assert (chunk.first, chunk.last) == (1, 3)


def test_a_scanned_pdf_is_told_and_so_is_a_page_without_text(tmp_path: Path) -> None:
    (told,) = problems(made(tmp_path, "scan.pdf", pdf_bytes("", "")))
    assert "the PDF holds no text" in told
    assert "fix   ocrmypdf --skip-text" in told
    remark = read(made(tmp_path, "half.pdf", pdf_bytes("A page of text.", ""))).remark
    assert remark.startswith("1 of 2 pages hold no text (2)")


def test_a_damaged_pdf_is_told(tmp_path: Path) -> None:
    whole = pdf_bytes("The pump runs at 230 volts.")
    for number, damaged in enumerate((whole[:60], b"%PDF-1.4\n" + b"\xff" * 300, whole.replace(b"/Pages", b"/Wages"))):
        (told,) = problems(made(tmp_path, f"{number}.pdf", damaged))
        assert "error: the PDF is damaged" in told, told
        assert "fix   qpdf" in told


def test_all_that_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    told = problems(
        made(tmp_path, "latin.md", "Grün".encode("cp1252")),
        made(tmp_path, "a.docx", b"PK\3\4rest"),
        made(tmp_path, "blank.txt", " \n"),
        made(tmp_path, "binary.txt", b"a\0b"),
        made(tmp_path, "no.pdf", b"hello"),
        tmp_path / "missing.md",
    )
    firsts = [lines.splitlines()[0] for lines in told]
    assert firsts == [
        "error: the document is not UTF-8",
        "error: this is no text",
        "error: the document holds no text",
        "error: this is no text",
        "error: this is no PDF",
        "error: the document cannot be read",
    ]
    assert "iconv -f cp1252 -t utf-8" in told[0]
    assert "pandoc" in told[1]


def test_a_folder_is_read_in_order_hidden_files_and_pictures_are_left_out_and_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("z.md", "a.txt", "b/c.markdown", ".git/x.md", ".hidden.md", "picture.png"):
        made(tmp_path, name, "some words\r\nmore")
    library = read_documents([tmp_path, tmp_path / "a.txt"])
    assert [document.file for document in library.documents] == [
        str(tmp_path / name) for name in ("a.txt", "z.md", "b/c.markdown")
    ]
    assert library.left_out == (str(tmp_path / "picture.png"),)
    assert library.documents[0].text == "some words\nmore"


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (told,) = problems(tmp_path)
    assert "the folder holds no documents" in told


def test_a_pdf_with_a_password_is_told_and_one_without_is_opened(tmp_path: Path) -> None:
    import io

    import pypdf

    for password, name in (("secret", "locked.pdf"), ("", "open.pdf")):
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf_bytes("The pump runs.")))
        writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
        writer.write(tmp_path / name)
    (told,) = problems(tmp_path / "locked.pdf")
    assert "error: the PDF is encrypted" in told
    assert read(tmp_path / "open.pdf").text == "The pump runs.\n\n"
