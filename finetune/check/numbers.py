"""Numbers that carry their own proof: payment cards, bank accounts, identity and tax numbers."""

from __future__ import annotations

import datetime

ISSUERS = (
    (4, 4, (13, 16, 19)),
    (51, 55, (16,)),
    (2221, 2720, (16,)),
    (34, 34, (15,)),
    (37, 37, (15,)),
    (6011, 6011, (16,)),
    (644, 659, (16,)),
    (3528, 3589, (16,)),
    (62, 62, (16, 17, 18, 19)),
    (300, 305, (14,)),
    (36, 36, (14,)),
    (38, 38, (14,)),
)
"""First and last prefix of an issuer, and how many digits its cards have: Visa, Mastercard, American Express, Discover,
JCB, UnionPay, Diners."""

IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18,
    "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26,
    "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25,
    "RO": 24, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "UA": 29,
}  # fmt: skip
"""Characters of a country's IBAN. Source: SWIFT, IBAN Registry."""

PLACEHOLDERS = frozenset(
    {
        "4111111111111111", "4242424242424242", "4012888888881881", "4000056655665556", "5555555555554444",
        "5105105105105100", "5200828282828210", "378282246310005", "371449635398431", "6011111111111117",
        "6011000990139424", "3530111333300000", "30569309025904", "38520000023237", "4000000000000002",
        "DE89370400440532013000", "GB82WEST12345698765432", "GB29NWBK60161331926819", "FR1420041010050500013M02606",
        "NL91ABNA0417164300", "CH9300762011623852957", "ES9121000418450200051332", "078-05-1120", "219-09-9999",
        "123-45-6789", "11010519491231002X",
    }
)  # fmt: skip
"""Numbers that are printed in manuals; nobody's."""


def is_card(digits: str) -> bool:
    """Tells whether an issuer gives out cards with such a number: its prefix, its length, and Luhn's sum."""
    issued = any(
        low <= int(digits[: len(str(low))]) <= high and len(digits) in lengths for low, high, lengths in ISSUERS
    )
    return issued and len(set(digits)) > 3 and luhn(digits)


def luhn(digits: str) -> bool:
    """Checks the last digit. Source: ISO/IEC 7812-1."""
    doubled = [int(d) if i % 2 == 0 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def is_iban(text: str) -> bool:
    """Checks length and remainder. Source: ISO 13616, ISO 7064 MOD 97-10."""
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def is_ssn(text: str) -> bool:
    """Tells whether a US social security number can have been given out. Source: SSA, RM 10201.035."""
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_resident_id(text: str) -> bool:
    """Checks province, birthday and last character of a Chinese identity number. Source: GB 11643-1999."""
    try:
        born = datetime.date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * (2 ** (17 - i) % 11) for i, digit in enumerate(text[:17]))
    return "11" <= text[:2] <= "82" and 1900 <= born.year <= 2100 and text[17].upper() == "10X98765432"[total % 11]


def is_german_tax_id(digits: str) -> bool:
    """Checks a German tax id: no leading 0, one digit twice or thrice, the last by ISO 7064 MOD 11,10."""
    if digits[0] == "0" or len(set(digits[:10])) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        product = 2 * ((int(digit) + product) % 10 or 10) % 11
    return (11 - product) % 10 == int(digits[10])
