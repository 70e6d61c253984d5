"""Proof `check`: real rows with planted faults; counts what `finetune data check` finds, misses and finds too much.

    FINETUNE_TEST_DATA=... scripts/prove check [--rows 5000] [--seed 0] [--list]

A false alarm is a finding whose rows are all unplanted. Duplicates and leaks among real rows are not counted as such
where an exact comparison, made here in another way, says that they are real. `--list` prints the alarms to be read.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.check import Figures, Finding, Findings, check_rows
from finetune.data import Row
from finetune.data.messages import row_from

EXACT, NEAR, LEAKED, BROKEN = 40, 40, 25, 20
"""Planted of each kind, and three of each of the private ones."""

EXPECTED = {
    "exact": {"duplicate-exact"},
    "near": {"duplicate-near", "duplicate-normalised"},
    "leak": {"leak-exact", "leak-normalised", "leak-near"},
    "call": {"tool-argument-wrong", "tool-argument-missing", "tool-argument-unknown"},
}


def real_rows(data: Path) -> Iterator[dict[str, Any]]:
    """Public rows of five kinds: instructions in two languages, medicine, sums, intents, calls of tools."""
    for name in ("alpaca_en_demo", "alpaca_zh_demo"):
        for row in json.loads((data / "formats_llamafactory" / f"{name}.json").read_text()):
            asked = [part for part in (row["instruction"], row["input"]) if part]
            yield {"prompt": "\n\n".join(asked), "completion": row["output"]}
    for row in json.loads((data / "medical_pubmedqa" / "ori_pqal.json").read_text()).values():
        yield {"prompt": "\n".join([*row["CONTEXTS"], row["QUESTION"]]), "completion": row["LONG_ANSWER"]}
    for line in (data / "general_gsm8k" / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield {"prompt": row["question"], "completion": row["answer"]}
    with (data / "finance_banking77" / "train.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield {"prompt": row["text"], "completion": row["category"]}


def glaive(data: Path) -> Iterator[dict[str, Any]]:
    """Rows that call tools, as LLaMA-Factory's demo file holds them."""
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    for row in json.loads((data / "formats_llamafactory" / "glaive_toolcall_en_demo.json").read_text()):
        messages: list[dict[str, Any]] = []
        for turn in row["conversations"]:
            if turn["from"] == "function_call":
                messages.append({"role": "assistant", "content": "", "tool_calls": [json.loads(turn["value"])]})
            else:
                messages.append({"role": roles[turn["from"]], "content": turn["value"]})
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        yield {"tools": row["tools"], "messages": messages}


def made(values: Iterator[dict[str, Any]], name: str) -> list[Row]:
    """Reads rows; what training would refuse is left out."""
    found = [row_from(value, f"{name}.jsonl:{i}") for i, value in enumerate(values, 1)]
    return [row for row in found if isinstance(row, Row)]


def said(row: Row, change: Callable[[str], str], place: str) -> Row:
    """Copies a row with its texts changed."""
    messages = tuple({**message, "content": change(message["content"])} for message in row.messages)
    return replace(row, messages=messages, place=place)


def changed(chance: random.Random) -> Callable[[str], str]:
    """Replaces 2 to 10 % of a text's words by words of its own, at least one."""

    def change(text: str) -> str:
        words = text.split(" ")
        for i in chance.sample(range(len(words)), max(1, round(chance.uniform(0.02, 0.1) * len(words)))):
            words[i] = chance.choice(("other", "several", "blue", "tomorrow", "slowly", "17", "house"))
        return " ".join(words)

    return change


def stripped(text: str) -> str:
    """Lower case, no punctuation: each mark becomes a space, as where a tokenizer of words was run."""
    return text.lower().translate(str.maketrans(string.punctuation, " " * len(string.punctuation)))


def luhn(stem: str) -> str:
    """Adds the digit that makes a card's number."""
    total = sum(sum(divmod(int(d) * (2 if i % 2 == 0 else 1), 10)) for i, d in enumerate(reversed(stem)))
    return stem + str(-total % 10)


def iban(country: str, account: str) -> str:
    """Puts the two digits in front that make an account's number an IBAN."""
    rest = int("".join(str(int(c, 36)) for c in f"{account}{country}00")) % 97
    return f"{country}{98 - rest:02d}{account}"


def resident(chance: random.Random) -> str:
    """Makes up a Chinese identity number."""
    born = f"19{chance.randrange(50, 99)}0{chance.randrange(1, 9)}1{chance.randrange(9)}"
    stem = f"{chance.choice(('110101', '310104', '440305'))}{born}{chance.randrange(1000):03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return stem + "10X98765432"[sum(int(d) * w for d, w in zip(stem, weights, strict=True)) % 11]


def private(chance: random.Random) -> Iterator[tuple[str, str]]:
    """Yields sentences with something private, three of each of ten kinds, and the code of each."""

    def word(size: int, of: str = string.ascii_letters + string.digits) -> str:
        return "".join(chance.choice(of) for _ in range(size))

    for _ in range(3):
        digits = "".join(chance.choice("2346789") for _ in range(12))
        yield (
            f"Write to {word(6, string.ascii_lowercase)}.{word(7, string.ascii_lowercase)}@siemens-energy.de today.",
            "personal-email",
        )
        yield f"Call me: my mobile is +49 151 {digits[:8]}.", "personal-phone"
        yield f"The customer's phone number is (415) {digits[:3]}-{digits[3:7]}.", "personal-phone"
        card = luhn("4539" + word(11, string.digits))
        yield f"My visa card {card[:4]} {card[4:8]} {card[8:12]} {card[12:]} was declined.", "personal-card"
        yield f"Pay to {iban('DE', word(18, string.digits))} please.", "personal-iban"
        yield f"身份证号码是{resident(chance)}。", "personal-id"
        yield (
            f"Her SSN is {chance.randrange(100, 660)}-{chance.randrange(10, 99)}-{chance.randrange(1000, 9999)}.",
            "personal-id",
        )
        yield f"export HF_TOKEN={'hf' + '_' + word(34)}", "secret-token"
        yield f"aws_access_key_id = {'AK' + 'IA' + word(16, string.ascii_uppercase + string.digits)}", "secret-token"
        yield f"psql postgresql://app:{word(14)}@db.internal.acme.io:5432/prod", "secret-password"


def broken(row: Row, chance: random.Random, place: str) -> Row | None:
    """Breaks the first call of a row: a wrong type, a missing argument or one too many."""
    messages = json.loads(json.dumps(row.messages))
    for message in messages:
        for call in message.get("tool_calls", ()):
            function = call["function"]
            (schema,) = [t["function"]["parameters"] for t in row.tools if t["function"]["name"] == function["name"]]
            known = [key for key in schema.get("required", ()) if key in function["arguments"]]
            if not known:
                continue
            key, how = chance.choice(known), chance.randrange(3)
            if how == 0:
                function["arguments"][key] = {"value": [None]}
            elif how == 1:
                del function["arguments"][key]
            else:
                function["arguments"][f"{key}_x"] = 1
            return replace(row, messages=tuple(messages), place=place)
    return None


def main() -> None:
    """Plants, checks and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    data, chance = Path(os.environ["FINETUNE_TEST_DATA"]), random.Random(asked.seed)
    calls = made(glaive(data), "calls")
    rows = chance.sample(made(real_rows(data), "real"), asked.rows - len(calls)) + calls
    planted, held = plant(rows, calls, chance)
    findings, alarms = Findings(), list[Finding]()
    findings.hand_on = alarms.append
    began = time.monotonic()
    check_rows(
        [*((row, "learnt") for row in [*rows, *planted]), *((row, "held out") for row in held)], findings, Figures()
    )
    seconds = time.monotonic() - began
    whole = len(rows) + len(planted) + len(held)
    report([*planted, *held], alarms)
    false_alarms(rows, alarms, asked.list)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    each = 1000 * seconds / whole
    print(f"{whole:,} rows in {seconds:.1f} s: {each:.2f} s a thousand; peak {peak:.2f} GiB, rows included")


def plant(rows: list[Row], calls: list[Row], chance: random.Random) -> tuple[list[Row], list[Row]]:
    """Makes the faulty rows; a place says the kind: `exact:3`, `private-secret-token:5`."""
    long = [row for row in rows if sum(len(m["content"].split()) for m in row.messages) >= 20 and not row.tools]
    chosen = chance.sample(long, EXACT + NEAR + LEAKED)
    learnt = [replace(row, place=f"exact:{i}") for i, row in enumerate(chosen[:EXACT])]
    learnt += [said(row, changed(chance), f"near:{i}") for i, row in enumerate(chosen[EXACT : EXACT + NEAR])]
    held = [said(row, (str, str.lower, stripped)[i % 3], f"leak:{i}") for i, row in enumerate(chosen[EXACT + NEAR :])]
    for i, (sentence, code) in enumerate(private(chance)):
        host = chance.choice(long)
        texts = (f"{host.messages[0]['content'][:200]} ({i})\n{sentence}", f"{i}: {host.messages[-1]['content'][:120]}")
        row = row_from({"prompt": texts[i % 2], "completion": texts[1 - i % 2]}, f"{code}:{i}")
        assert isinstance(row, Row)
        learnt.append(row)
    wrong = [made for i, row in enumerate(calls) if (made := broken(row, chance, f"call:{i}"))]
    return [*learnt, *chance.sample(wrong, BROKEN)], held


def report(planted: list[Row], alarms: list[Finding]) -> None:
    """Prints what of the planted was found."""
    codes: dict[str, set[str]] = {}
    for alarm in alarms:
        for place in (alarm.place, *alarm.others):
            codes.setdefault(place, set()).add(alarm.code)
    found, missed = Counter[str](), Counter[str]()
    for row in planted:
        kind = row.place.partition(":")[0]
        (found if codes.get(row.place, set()) & EXPECTED.get(kind, {kind}) else missed)[kind] += 1
    print(f"{'planted':<20}{'found':>7}{'missed':>8}")
    for kind in dict.fromkeys(row.place.partition(":")[0] for row in planted):
        print(f"{kind:<20}{found[kind]:>7}{missed[kind]:>8}")


def false_alarms(rows: list[Row], alarms: list[Finding], listed: bool) -> None:
    """Prints how often real rows alone raise each alarm; exact duplicates are established by their texts."""
    real = {row.place: json.dumps([row.messages, row.tools], sort_keys=True) for row in rows}
    counts, true = Counter[str](), Counter[str]()
    for alarm in alarms:
        places = [place for place in (alarm.place, *alarm.others) if place in real]
        if alarm.place not in real or len(places) < 1 + len(alarm.others):
            continue
        counts[alarm.code] += 1
        true[alarm.code] += alarm.code == "duplicate-exact" and len({real[place] for place in places}) == 1
        if listed:
            print(f"  {alarm.code}  {' '.join(places[:3])}  {alarm.what}  |  {alarm.snippet}")
    print(f"{'on real rows alone':<24}{'alarms':>7}  (of {len(rows):,} rows)")
    for code, count in counts.most_common():
        print(f"{code:<24}{count:>7}" + (f"  {true[code]} of them equal to the letter" if true[code] else ""))


if __name__ == "__main__":
    main()
