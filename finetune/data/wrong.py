"""How a check deep inside a row says what is wrong with it."""

from __future__ import annotations


class WrongField(Exception):
    """Carries one Problem out of the depth of a row."""

    def __init__(self, field: str, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.field, self.what, self.why, self.fix = field, what, why, fix
