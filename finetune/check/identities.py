"""Identity, health, tax and licence numbers of many countries: Presidio's patterns, beside the words that name them.

Presidio takes a number whose checksum is right for one whatever stands around it, though of ten random numbers one has
that; and it looks for words token by token, where `national insurance` never stands. So a number counts here only if
one of its words stands before it, as with our own patterns. What those find already is left out, and what is nobody's
own: numbers of companies and banks, postcodes, places and dates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LEAST = 0.05
"""Of Presidio's score: below it stand patterns that any ten letters fit. A checksum that is right gives 1."""

DIGITS = 4
"""That every number here has."""

CONTEXT = 60
"""Characters before a number in which its word must stand."""

_PASSPORT = ("passport", "reisepass", "pasaporte", "passaporto", "여권")
_DRIVING = ("driving licence", "driving license", "driver licen", "driver's licen", "drivers licen", "driver’s licen")

RECOGNIZERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("AuMedicareRecognizer", "Australian Medicare number", ()),
    ("AuTfnRecognizer", "Australian tax file number", ()),
    ("CaSinRecognizer", "Canadian social insurance number", ("social insurance", "assurance sociale", "sin", "nas")),
    ("DeHealthInsuranceRecognizer", "German health insurance number", ()),
    ("DeIdCardRecognizer", "German identity card number", ()),
    ("DeLanrRecognizer", "German physician number", ("arztnummer", "arzt-nr", "lanr")),
    ("DeSocialSecurityRecognizer", "German pension insurance number", ()),
    ("DeTaxNumberRecognizer", "German tax number", ("steuernummer", "steuer-nr", "steuer nr", "st.-nr", "st-nr")),
    ("EsNieRecognizer", "Spanish foreigner's number", ()),
    ("EsNifRecognizer", "Spanish identity number", ()),
    ("FiPersonalIdentityCodeRecognizer", "Finnish identity code", ()),
    ("InAadhaarRecognizer", "Indian Aadhaar number", ("aadhaar", "aadhar", "uidai")),
    ("InPanRecognizer", "Indian permanent account number", ()),
    ("InVoterRecognizer", "Indian voter number", ()),
    ("ItFiscalCodeRecognizer", "Italian tax code", ()),
    ("ItIdentityCardRecognizer", "Italian identity card number", ("carta d'identità", "carta di identità", "cie")),
    ("KrFrnRecognizer", "Korean foreigner's number", ()),
    ("KrRrnRecognizer", "Korean resident number", ("주민등록번호", "resident registration", "rrn")),
    ("NgNinRecognizer", "Nigerian identity number", ()),
    ("NhsRecognizer", "British NHS number", ()),
    ("PhTinRecognizer", "Philippine tax number", ("taxpayer id", "tax id", "tin")),
    ("PhUmidRecognizer", "Philippine identity number", ()),
    ("PlPeselRecognizer", "Polish PESEL number", ()),
    ("SePersonnummerRecognizer", "Swedish identity number", ()),
    ("SgFinRecognizer", "Singaporean identity number", ()),
    ("ThTninRecognizer", "Thai identity number", ()),
    ("TrNationalIdRecognizer", "Turkish identity number", ()),
    ("UkNinoRecognizer", "British national insurance number", ()),
    (
        "UsHealthInsuranceMemberIdRecognizer",
        "health insurance member number",
        ("member id", "member number", "subscriber"),
    ),
    ("UsItinRecognizer", "US taxpayer number", ("itin", "taxpayer identification", "taxpayer id")),
    ("UsMbiRecognizer", "US Medicare number", ("medicare", "mbi", "beneficiary")),
    ("UsNpiRecognizer", "US provider number", ("npi", "national provider", "provider id")),
    ("MedicalLicenseRecognizer", "US DEA number", ("dea",)),
    ("ZaIdNumberRecognizer", "South African identity number", ()),
    ("ZaIncomeTaxNumberRecognizer", "South African tax number", ()),
    ("ZaTrafficRegisterNumberRecognizer", "South African traffic register number", ()),
    ("DePassportRecognizer", "passport number", _PASSPORT),
    ("EsPassportRecognizer", "passport number", _PASSPORT),
    ("InPassportRecognizer", "passport number", _PASSPORT),
    ("KrPassportRecognizer", "passport number", _PASSPORT),
    ("PhPassportRecognizer", "passport number", _PASSPORT),
    ("UkPassportRecognizer", "passport number", _PASSPORT),
    ("UsPassportRecognizer", "passport number", _PASSPORT),
    ("ZaPassportRecognizer", "passport number", _PASSPORT),
    ("DeFuehrerscheinRecognizer", "driving licence number", ("führerschein", "fahrerlaubnis")),
    ("ItDriverLicenseRecognizer", "driving licence number", ("patente",)),
    ("KrDriverLicenseRecognizer", "driving licence number", ("운전면허", "면허번호")),
    ("UkDrivingLicenceRecognizer", "driving licence number", (*_DRIVING, "dvla")),
    ("UsLicenseRecognizer", "driving licence number", _DRIVING),
    ("ZaDriverLicenseRecognizer", "driving licence number", _DRIVING),
)
"""Presidio's class, what it finds, and the words that must stand before it; without any, those that Presidio names."""


@dataclass(frozen=True)
class Identity:
    """One kind of number."""

    name: str
    words: re.Pattern[str]
    needs: tuple[str, ...]
    """The words in lower case, one of which a text must have: looking for that is quick."""
    recognizer: Any
    entity: str


@dataclass(frozen=True)
class Number:
    """One number that was found."""

    name: str
    start: int
    end: int


def identities() -> tuple[Identity, ...]:
    """Makes all that is looked for. Imports Presidio, which takes seconds."""
    from presidio_analyzer import predefined_recognizers

    made = []
    for kind, name, words in RECOGNIZERS:
        recognizer = vars(predefined_recognizers)[kind]()
        (entity,) = recognizer.supported_entities
        words = words or tuple(recognizer.context)
        made.append(Identity(name, _any_of(words), tuple(map(str.lower, words)), recognizer, entity))
    return tuple(made)


def numbers(text: str, wanted: tuple[Identity, ...]) -> Iterator[Number]:
    """Yields the numbers of a text in their order; where two overlap, the surer one, then the longer."""
    if sum(map(str.isdigit, text)) < DIGITS:
        return
    low = text.lower()
    near = [identity for identity in wanted if any(word in low for word in identity.needs)]
    found = [each for identity in near for each in _of(text, identity)]
    taken: list[Number] = []
    for _, _, number in sorted(found, key=lambda each: each[:2]):
        if not any(number.start < other.end and other.start < number.end for other in taken):
            taken.append(number)
    yield from sorted(taken, key=lambda number: number.start)


def _of(text: str, identity: Identity) -> Iterator[tuple[float, int, Number]]:
    """Yields what one recogniser finds beside its words, after what sorts it: score and length, downwards."""
    for result in identity.recognizer.analyze(text, [identity.entity], None):
        shown = text[result.start : result.end]
        digits = re.sub(r"\D", "", shown)
        if result.score < LEAST or len(digits) < DIGITS or len(set(digits)) < 2 or digits in "01234567890123456789":
            continue
        if identity.words.search(text, max(0, result.start - CONTEXT), result.start):
            yield -result.score, result.start - result.end, Number(identity.name, result.start, result.end)


def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """Matches one of several words: short ones whole, long ones in others too, as German joins them."""
    whole = [word for word in words if len(word) <= 4 and word.isascii()]
    parts = [re.escape(word) for word in words if word not in whole]
    if whole:
        parts.append(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, whole))})(?![^\W\d_])")
    return re.compile("|".join(parts), re.IGNORECASE)
