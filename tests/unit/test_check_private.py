"""Secrets and personal data: each kind found, each look-alike left alone, nothing shown.

What looks like a secret is put together here from parts, so that no file of ours holds one.
"""

from __future__ import annotations

import base64
import json
import random
import string
from pathlib import Path

import pytest

from finetune.check.figures import Figures
from finetune.check.finding import Findings, snippet
from finetune.check.hiding import hidden, hiding
from finetune.check.numbers import is_card, is_german_tax_id, is_iban, is_resident_id, is_ssn, luhn
from finetune.check.patterns import BEGINNINGS
from finetune.check.private import Private, masked
from finetune.check.verb import check_rows
from finetune.data import Row
from finetune.data.messages import row_from
from finetune.recipe.secrets import TOKENS

MIXED = "q7Zr2Kx9Lm4Tv8Bn3Wc6Yd1Hs5Gf0JpEaUiOoAe"


def found(text: str) -> list[tuple[str, str]]:
    row = row_from({"prompt": text, "completion": "Noted."}, "rows.jsonl:1")
    assert isinstance(row, Row), row
    return [(finding.code, finding.snippet) for finding in Private().see(row)]


def test_what_only_looks_like_a_token_may_be_nested_as_deep_as_it_likes() -> None:
    head = base64.urlsafe_b64encode(b'{"a":' + b"[" * 100_000).decode()
    assert found(f"{head}.eyJhbGciOiJIUzI1NiJ9.{MIXED}") == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("token hf" + "_" + MIXED[:34], "secret-token"),
        ("sk" + "-ant-" + MIXED, "secret-token"),
        ("sk" + "-proj-" + MIXED, "secret-token"),
        ("AK" + "IA" + "QWERTYUIOPASDFGH", "secret-token"),
        ("gh" + "p_" + MIXED[:36], "secret-token"),
        ("gl" + "pat-" + MIXED[:20], "secret-token"),
        ("xox" + "b-" + MIXED[:30], "secret-token"),
        ("AI" + "za" + MIXED[:35], "secret-token"),
        ("sk" + "_live_" + MIXED[:24], "secret-token"),
        ("Account" + "Key=" + (MIXED * 3)[:86] + "==", "secret-token"),
        ("np" + "m_" + MIXED[:36], "secret-token"),
        ("py" + "pi-" + MIXED + MIXED, "secret-token"),
        ("S" + "G." + MIXED[:22] + "." + (MIXED * 2)[:43], "secret-token"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "secret-token"),
        ("eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + "." + MIXED, "secret-token"),
        ("postgres://app:" + MIXED[:12] + "@db.acme.io/prod", "secret-password"),
        ("password = '" + MIXED[:12] + "'", "secret-password"),
        ("jane.doe@siemens.de wrote", "personal-email"),
        ("call +49 151 23456789 now", "personal-phone"),
        ("My phone is 415-867-5309", "personal-phone"),
        ("手机号13912345678", "personal-phone"),
        ("credit card 4539 1488 0343 6467", "personal-card"),
        ("IBAN DE75 5121 0800 1245 1261 99", "personal-iban"),
        ("SSN 536-22-8841", "personal-id"),
        ("身份证11010119900307803X", "personal-id"),
        ("Steuer-ID 86 095 742 719", "personal-id"),
        ("ssh to 8.8.8.8", "personal-ip"),
        ("server 2a00:1450:4001:81b::200e", "personal-ip"),
    ],
)
def test_each_kind_is_found_once_and_masked(text: str, code: str) -> None:
    ((kind, shown),) = found(text)
    assert kind == code
    assert shown[2:].startswith("… (")


@pytest.mark.parametrize(
    "text",
    [
        "mail me at jane@example.com or info@mail.example.org, see logo@2x.png",
        "call 555-0123, phone (415) 555-0199, or tel +1 415 555 0142",
        "test card 4242 4242 4242 4242 and 4111-1111-1111-1111",
        "card numbers: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16",
        "the card 4539148803436467.25 is no number",
        "4539 1488 0343 6467 widgets were sold",
        "order 536-22-8841 was shipped",
        "p values were 0.01, 0.02.0.03.0.04; server versions 1.2.3.4.5",
        "host 192.168.1.1, address 127.0.0.1, server 203.0.113.7, dns 2001:db8::1",
        "version 8.8.8.8 of the program",
        "IBAN DE89370400440532013000 is that of manuals, DE75512108001245126198 is wrong",
        "password = os.environ['DB_PASSWORD'], token: <your-token>, password: changeme",
        "The secret is patience and the key is practice.",
        "std::vector<int>::iterator, 10:20:30:40:50 o'clock",
    ],
)
def test_what_is_nobodys_or_a_mere_number_is_not_told(text: str) -> None:
    assert found(text) == []


def test_a_system_prompt_is_told_once_however_many_rows_share_it() -> None:
    private = Private()
    told = []
    for i in range(3):
        messages = [
            {"role": "system", "content": "Answer for jane.doe@siemens.de"},
            {"role": "user", "content": f"{i}?"},
            {"role": "assistant", "content": "Yes."},
        ]
        row = row_from({"messages": messages}, f"rows.jsonl:{i}")
        assert isinstance(row, Row)
        told += list(private.see(row))
    assert [finding.place for finding in told] == ["rows.jsonl:0"]


def test_numbers_prove_themselves_and_every_changed_digit_is_noticed() -> None:
    chance = random.Random(5)
    for good, proof in (
        ("4539148803436467", luhn),
        ("DE75512108001245126199", is_iban),
        ("11010119900307803X", is_resident_id),
        ("86095742719", is_german_tax_id),
    ):
        assert proof(good)
        for at in chance.sample(range(4, len(good) - 1), 5):
            other = chance.choice([d for d in string.digits if d != good[at]])
            assert not proof(good[:at] + other + good[at + 1 :]), (good, at, other)
    assert is_card("4539148803436467")
    assert not is_card("9539148803436462")
    assert is_ssn("536-22-8841")
    assert not any(map(is_ssn, ("000-22-8841", "666-22-8841", "900-22-8841", "536-00-8841", "536-22-0000")))


def test_every_token_of_the_one_list_has_its_beginning() -> None:
    assert set(BEGINNINGS) == set(TOKENS)


def test_a_mask_shows_two_characters() -> None:
    assert masked("hunter22hunter") == "hu… (14 characters)"


def test_what_is_private_stays_hidden_wherever_a_window_cuts_it() -> None:
    """Every window of a text with an address, a key and a name: not three characters of them can be read."""
    address, key, name = "jane.harrison" + "@" + "corp.co", "hf" + "_" + MIXED[:34], "Robert Miller"
    text = f"It {'was ' * 30}by {name} ({address}), key {key}, {'and ' * 30}so on."
    with hiding({name}):
        assert len(hidden(text)) == len(text)
        shown = [snippet(text, at, at + 1) for at in range(len(text))]
    for secret in (address, key, name):
        assert not any(secret[at : at + 4] in each for each in shown for at in range(len(secret) - 3)), secret
    assert any("Ro… (ja…), key hf…," in each for each in shown)
    assert "Robert" in snippet(text, text.index(name)), "no name is hidden that nobody found"


def test_no_line_of_a_finding_of_another_kind_tells_what_is_private() -> None:
    row = {
        "prompt": "Why?",
        "completion": f"Ask jane.harrison{'@'}corp.co at the cafÃ© about key hf{'_'}{MIXED[:34]} <b>now</b>.",
    }
    told = row_from(row, "rows.jsonl:1")
    assert isinstance(told, Row)
    findings = Findings()
    check_rows([(told, "learnt")], findings, Figures())
    assert {"mojibake", "html-left"} <= findings.kept.keys()
    words = " ".join(f"{f.what} {f.why} {f.fix} {f.snippet}" for kept in findings.kept.values() for f in kept)
    assert "café" in words
    assert "harrison" not in words
    assert MIXED[:8] not in words


def test_no_number_of_the_public_sets_is_taken_for_private(test_data: Path) -> None:
    texts = [json.dumps(row, ensure_ascii=False) for row in json.loads(
        (test_data / "formats_llamafactory" / "alpaca_zh_demo.json").read_text())]  # fmt: skip
    told = json.loads((test_data / "medical_pubmedqa" / "ori_pqal.json").read_text())
    texts += ["\n".join(row["CONTEXTS"]) for row in told.values()]
    assert [each for text in texts for each in found(text)] == []
