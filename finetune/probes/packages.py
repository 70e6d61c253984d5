"""Looks at the installed packages by their metadata; nothing is imported."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

from finetune.probes.check import Check

DISTRIBUTION = "finetune-proven"

EXTRAS = ("", "kernels")
"""Requirements that are looked at: those of every installation, and of the fast path where it is installed."""


def python() -> Check:
    """The interpreter against the version that this package asks for."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check("Python", "ok", f"{version}, {sys.executable}")  # an older one cannot import this package


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> Check:
    """Every required package against the range that this package was proven with."""
    try:
        wrong = list(outside_ranges())
    except metadata.PackageNotFoundError:
        told = f"{DISTRIBUTION} is not installed, only its code is here: no ranges to compare with"
        return Check("packages", "slow", told, "pip install -e .")
    if wrong:
        told = "; ".join(f"{name} {found or 'is missing'}, needed is {wanted}" for name, found, wanted in wrong)
        fix = "pip install " + " ".join(f"'{name}{wanted}'" for name, _, wanted in wrong)
        return Check("packages", "broken", told, fix)
    named = ", ".join(f"{name} {version_of(name)}" for name in ("torch", "transformers", "trl", "peft", "bitsandbytes"))
    return Check("packages", "ok", f"{named}, and all others within their ranges")


def gguf() -> Check:
    """What makes GGUF files of few bits, scores them, and talks to them; none is needed to train."""
    found = {name: version_of(name) for name in ("llama-cpp-python", "xllamacpp")}
    told = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    if found["llama-cpp-python"]:
        return Check("GGUF", "ok", told)
    tool = " beside llama-quantize" if shutil.which("llama-quantize") else ""
    lacks = "no llama-cpp-python: logits of GGUF files are not compared"
    lacks += "" if found["xllamacpp"] else ", none is scored or asked"
    lacks += "" if tool else ", and of few bits there is only q8_0"
    return Check("GGUF", "absent", f"{told}{tool}; {lacks}".removeprefix("; "), "pip install llama-cpp-python")


def outside_ranges() -> Iterator[tuple[str, str | None, str]]:
    """Yields (package, installed version, wanted range) of those that are missing or outside.

    Raises:
        PackageNotFoundError: this package itself is not installed, so that nothing says what it needs.
    """
    from packaging.requirements import Requirement

    for line in metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(line)
        wanted = [
            extra for extra in EXTRAS if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        ]
        found = version_of(requirement.name)
        if not wanted or (found is None and wanted == ["kernels"]):
            continue
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield requirement.name, found, str(requirement.specifier)
