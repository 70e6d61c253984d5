"""Proof `names`: invented names and numbers in real rows; counts what `--presidio` finds, misses and finds too much.

    FINETUNE_TEST_DATA=... scripts/prove names PIPELINE [--rows 2000] [--seed 0] [--list 30]

PIPELINE is a spaCy pipeline of English, by name or folder. The numbers are made here by their standards, not by
Presidio's code. `--list` prints, in full, stretches that were found in real rows, to be read.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from check import glaive, luhn, made, real_rows

from finetune.check import Figures, Finding, Findings, check_rows
from finetune.check.languages import language
from finetune.check.presidio import is_full, names_of, open_presidio
from finetune.check.saying import said
from finetune.data import Row
from finetune.data.messages import row_from

NAMES = (
    *("Harriet Ashdown", "Colm Fitzmaurice", "Rhiannon Pritchard", "Douglas McAllen", "Beatrice Holloway"),
    *("Wendell Crane", "Tamika Broadnax", "Eleanor Voss", "Marcus Tillery", "Josephine Larkspur"),
    *("Anneliese Brückner", "Detlef Warnecke", "Solène Marchandeau", "Thibault Gaucherel", "Rosalía Montesdeoca"),
    *("Íñigo Larrazábal", "Graziella Bonfanti", "Ottavio Terranova", "Marieke van der Velden", "Sjoerd Hoekstra"),
    *("Bogumiła Kwiatkowska", "Zdeněk Havlíček", "Oleksandr Hrytsenko", "Svetlana Morozova", "Eleftheria Papadaki"),
    *("Nkechi Obiageli", "Kwabena Asamoah", "Thandiwe Mokoena", "Yared Tesfamariam", "Fatoumata Diarra"),
    *("Layla Haddadin", "Farid Zamanpour", "Ayşe Karabulut", "Priyanka Deshmukh", "Venkatesh Raghunathan"),
    *("Nguyen Thi Bao Chau", "Keiko Yanagisawa", "Park Seo-joon", "Zhao Wenling", "Siosaia Tupou"),
)
"""Nobody's, put together here."""

SENTENCES = (
    "My landlord {} has not answered since Monday.",
    "Please forward the lab results to {} at the front desk.",
    "The complaint was filed by {} on behalf of the tenants.",
    "{} asked whether the refund could go to another account.",
    "I spoke with {} from the billing team yesterday.",
    "The patient, {}, was discharged the next morning.",
    "Best regards, {}",
    "The witness {} saw the van leave at noon.",
)


def weighed(digits: str, weights: tuple[int, ...]) -> int:
    """Sums digits times weights."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def until(chance: random.Random, made: Callable[[], str | None]) -> str:
    """Draws again until there is a number with a check digit."""
    while (number := made()) is None:
        continue
    return number


def verhoeff(stem: str) -> str:
    """Adds Verhoeff's check digit, by the dihedral group of order ten."""

    def times(a: int, b: int) -> int:
        turned = (a + b if a < 5 else a - b) % 5
        return turned + 5 * ((a < 5) != (b < 5))

    powers = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(powers) < 8:
        powers.append([powers[1][i] for i in powers[-1]])
    total = 0
    for i, digit in enumerate(reversed(stem), 1):
        total = times(total, powers[i % 8][int(digit)])
    return stem + str(next(digit for digit in range(10) if times(total, digit) == 0))


def mod_11(chance: random.Random, stem: str, weights: tuple[int, ...]) -> str | None:
    """Adds the digit that makes the weighed sum a multiple of 11, if one does."""
    rest = -weighed(stem, weights) % 11
    return stem + str(rest) if rest < 10 else None


def italian(stem: str) -> str:
    """Adds the letter of an Italian tax code."""
    odd = dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True))
    letters = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    odd |= dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", letters, strict=True))
    even = {c: int(c) if c.isdigit() else ord(c) - 65 for c in odd}
    return stem + chr(65 + sum((odd if i % 2 == 0 else even)[c] for i, c in enumerate(stem)) % 26)


def german(stem: str, weights: tuple[int, ...]) -> str:
    """Adds the digit of a German number: letters as two digits, each product's digits summed."""
    digits = "".join(f"{ord(c) - 64:02d}" if c.isalpha() else c for c in stem)
    return stem + str(sum(sum(divmod(int(d) * w, 10)) for d, w in zip(digits, weights, strict=True)) % 10)


def turkish(stem: str) -> str:
    """Adds both digits of a Turkish identity number."""
    tenth = (7 * sum(map(int, stem[0::2])) - sum(map(int, stem[1::2]))) % 10
    return stem + str(tenth) + str((sum(map(int, stem)) + tenth) % 10)


def planted_numbers(chance: random.Random) -> Iterator[tuple[str, str]]:
    """Yields twenty kinds of numbers, each in a sentence that says what it is."""

    def d(size: int) -> str:
        return "".join(chance.choice("0123456789") for _ in range(size))

    year, day = chance.randrange(60, 99), chance.randrange(10, 28)
    born, nif = f"{year}07{day}", d(8)
    nhs = until(chance, lambda: mod_11(chance, f"4{d(8)}", tuple(range(10, 1, -1))))
    yield "British NHS", f"The patient's NHS number is {nhs[:3]} {nhs[3:6]} {nhs[6:]}."
    yield "British insurance", f"Her national insurance number is JK {d(2)} {d(2)} {d(2)} C."
    pesel = f"{born}{d(4)}"
    yield "Polish", f"PESEL: {pesel}{-weighed(pesel, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10}"
    yield "South African", f"South African ID number {luhn(f'{born}{d(4)}08')} was entered twice."
    nric = d(7)
    letter = "JZIHGFEDCBA"[weighed(nric, (2, 7, 6, 5, 4, 3, 2)) % 11]
    yield "Singaporean", f"NRIC S{nric}{letter} belongs to the tenant."
    yield "Spanish", f"Su DNI es {nif}{'TRWAGMYFPDXBNJZSQVHLCKE'[int(nif) % 23]}."
    yield "Spanish foreigner", f"The NIE is X{nif[1:]}{'TRWAGMYFPDXBNJZSQVHLCKE'[int(nif[1:]) % 23]}."
    yield "Italian", f"Codice fiscale: {italian(f'TRRTTV{year}L{day}F205')}."
    part = d(2) + "7"
    mark = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(f"{day}07{year}{part}") % 31]
    yield "Finnish", f"Henkilötunnus {day}07{year}-{part}{mark}"
    yield "Swedish", f"Personnummer {luhn(born + d(3))[:6]}-{luhn(born + d(3))[6:]}"
    yield "Turkish", f"TC Kimlik No: {turkish('4' + d(8))}"
    tfn = until(chance, lambda: mod_11_last(d(8), (1, 4, 3, 7, 5, 8, 6, 9), 10))
    yield "Australian tax", f"My tax file number is {tfn[:3]} {tfn[3:6]} {tfn[6:]}."
    care = f"2{d(7)}"
    care += str(weighed(care, (1, 3, 7, 9, 1, 3, 7, 9)) % 10) + "1"
    yield "Australian Medicare", f"Medicare card {care[:4]} {care[4:9]} {care[9]}."
    sin = luhn(f"5{d(7)}")
    yield "Canadian", f"Social insurance number {sin[:3]} {sin[3:6]} {sin[6:]}."
    yield "German health", f"Krankenversichertennummer {german(f'K{d(8)}', (1, 2) * 5)}"
    yield (
        "German pension",
        f"Versicherungsnummer {german(f'65{day}07{year}M{d(2)}', (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1))}",
    )
    aadhaar = verhoeff(f"7{d(10)}")
    yield "Indian", f"Aadhaar {aadhaar[:4]} {aadhaar[4:8]} {aadhaar[8:]} was copied."
    rrn = f"{born}1{d(5)}"
    yield (
        "Korean",
        f"주민등록번호 {rrn[:6]}-{rrn[6:]}{(11 - weighed(rrn, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10}",
    )
    thai = f"310{d(9)}"
    yield "Thai", f"เลขประจำตัวประชาชน {thai}{(11 - weighed(thai, tuple(range(13, 1, -1))) % 11) % 10}"
    stem = f"1{d(8)}"
    yield "US provider", f"The clinic's NPI is {luhn(f'80840{stem}')[5:]}."


def mod_11_last(stem: str, weights: tuple[int, ...], last: int) -> str | None:
    """Adds the digit that, times the last weight, makes the sum a multiple of 11, if one does."""
    return next((stem + str(i) for i in range(10) if (weighed(stem, weights) + i * last) % 11 == 0), None)


def plant(rows: list[Row], chance: random.Random) -> list[Row]:
    """Puts each sentence behind or before the words of a real row; a place says what: `name:3`, `number-Thai:0`."""
    told = [(f"name:{i}", SENTENCES[i % len(SENTENCES)].format(name)) for i, name in enumerate(NAMES)]
    told += [(f"number-{kind}:0", sentence) for kind, sentence in planted_numbers(chance)]
    made = []
    for i, (place, sentence) in enumerate(told):
        host = chance.choice(rows)
        asked, answer = host.messages[0]["content"][:400], host.messages[-1]["content"][:400] or "Done."
        value: dict[str, Any] = {"prompt": f"{asked}\n{sentence}", "completion": answer}
        if i % 2:
            value = {"prompt": asked, "completion": f"{sentence}\n{answer}"}
        row = row_from(value, place)
        assert isinstance(row, Row)
        made.append(row)
    return made


def hosts(rows: list[Row], wanted: tuple[str, ...]) -> list[Row]:
    """Gives short rows in which nothing is found, so that what is found in a copy was planted."""
    return [row for row in rows if row.place not in wanted and not row.tools and row.messages[-1]["content"]]


def main() -> None:
    """Searches real rows, plants in those where nothing was found, searches again, and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", type=int, default=0)
    asked = parser.parse_args()
    data, chance = Path(os.environ["FINETUNE_TEST_DATA"]), random.Random(asked.seed)
    rows = made(real_rows(data), "real") + made(glaive(data), "calls")
    rows = [row for row in rows if language(row.messages[0]["content"]) == "English"]
    rows = chance.sample(rows, asked.rows)
    alarms, seconds = search(rows, asked.pipeline)
    _, without = search(rows, "")
    counts = Counter(alarm.code for alarm in alarms)
    print(f"{len(rows):,} real rows alone: {counts['personal-name']} with names, {counts['personal-id']} numbers")
    print(f"{len(rows) / seconds:.0f} rows/s with Presidio, {len(rows) / without:.0f} without")
    listed(rows, asked.pipeline, chance, asked.list)
    planted = plant(hosts(rows, tuple(alarm.place for alarm in alarms)), chance)
    found = {alarm.place for alarm in search(planted, asked.pipeline)[0]}
    for kind in ("name", "number"):
        missed = [row for row in planted if row.place.startswith(kind) and row.place not in found]
        whole = sum(row.place.startswith(kind) for row in planted)
        print(
            f"planted {kind}s: {whole - len(missed)} of {whole} found; missed: {', '.join(map(told, missed)) or 'none'}"
        )


def search(rows: list[Row], pipeline: str) -> tuple[list[Finding], float]:
    """Checks rows; gives what Presidio told and the seconds, opening aside."""
    presidio = open_presidio([pipeline]) if pipeline else None
    findings, alarms = Findings(), list[Finding]()
    findings.hand_on = alarms.append
    began = time.monotonic()
    check_rows(((row, "learnt") for row in rows), findings, Figures(), presidio)
    seconds = time.monotonic() - began
    for note in presidio.notes() if presidio else ():
        print(f"note: {note}")
    return [each for each in alarms if each.code in ("personal-name", "personal-id")], seconds


def told(row: Row) -> str:
    """Names what was planted in a row."""
    kind, _, number = row.place.partition(":")
    return NAMES[int(number)] if kind == "name" else kind.removeprefix("number-")


def listed(rows: list[Row], pipeline: str, chance: random.Random, count: int) -> None:
    """Prints some of the names found in real rows, in full, each with what stands around it."""
    from finetune.check.pipelines import open_pipelines

    (opened,) = open_pipelines([pipeline])
    texts = [text.text for row in rows for text in said(row)] if count else []
    spans = zip(texts, opened.people(texts), strict=True)
    found = [(text, name) for text, each in spans for name in dict.fromkeys(names_of(text, each)) if is_full(name)]
    for text, name in chance.sample(found, min(count, len(found))):
        start = text.index(name)
        print(f"  {name!r} in {text[max(0, start - 40) : start + len(name) + 30]!r}")


if __name__ == "__main__":
    main()
