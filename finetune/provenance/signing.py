"""A signature over every file of a folder, in the form of OpenSSF model signing, by a key of one's own.

It needs the extra `signing` and no network: `model.sig` holds the hash of each file, signed with an elliptic-curve key.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.errors import ArtifactError, OutsideError, RecipeError
from finetune.run import Claim, claim

SIGNATURE = "model.sig"

DOWNLOADED, ATTRIBUTES, CLONE = ".cache/huggingface", ".gitattributes", ".git"
"""What is not signed beside the signature: what `hf download --local-dir` keeps, what the Hub adds, a clone's folder.

What has such a name and is something else is signed as any other.
"""

OF_CLONE = ("HEAD", "config", "objects", "refs")
"""What lies in every folder .git. Source: git's gitrepository-layout."""

NO_BUNDLE = (KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""What reading a bundle ends in, here and in the package, where it is JSON of another kind."""

NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem && openssl ec -in key.pem -pubout -out pub.pem"

PACKAGES = ("model_signing", "OpenSSL")
"""The second is imported by the first, version 1.1.1, which does not name it among what it needs."""


def is_installed() -> bool:
    """Tells whether the extra is there."""
    return all(find_spec(package) for package in PACKAGES)


def sign(folder: Path, key: Path) -> Path:
    """Signs every file of a folder and verifies the signature; a signature that lay there is replaced.

    Args:
        folder: to sign; links in it are refused.
        key: a private key without a password, of the curve P-256, P-384 or P-521, in PEM.

    Raises:
        ArtifactError: the folder cannot be signed.
        OutsideError: the extra is not installed.
        RecipeError: the key is none.
    """
    _check_installed()
    from model_signing import hashing, signing

    signature, public = folder / SIGNATURE, _public(key)
    if key.resolve().is_relative_to(folder.resolve()):
        fix = "move the key elsewhere"
        raise RecipeError("the key lies in what is signed", where=str(key), why="it would be given away", fix=fix)
    what = hashing.Config().set_ignored_paths(paths=(SIGNATURE, *_left_out(folder)), ignore_git_paths=False)
    try:
        signer = signing.Config().set_hashing_config(what).use_elliptic_key_signer(private_key=key)
        signer.sign(folder, signature)
    except (ValueError, OSError) as error:
        raise ArtifactError("the folder cannot be signed", where=str(folder), why=_short(error)) from error
    with TemporaryDirectory(prefix="finetune-") as staging:
        own = Path(staging) / "pub.pem"
        own.write_bytes(public)
        _compare(folder, signature, own)
    return signature


def check_signature(folder: Path, key: Path) -> Iterator[Claim]:
    """Compares a folder with its signature.

    Args:
        folder: with model.sig in it.
        key: the public key, in PEM.

    Raises:
        ArtifactError: there is no signature.
        OutsideError: the extra is not installed.
        RecipeError: the key is none.
    """
    _check_installed()
    signature = folder / SIGNATURE
    if not signature.is_file():
        fix = "finetune publish RUN --sign key.pem   # signs what it publishes"
        raise ArtifactError("this folder is not signed", where=str(folder), why=f"it has no {SIGNATURE}", fix=fix)
    if not key.is_file():
        raise RecipeError("there is no such key", where=f"--key {key}", why="it is a file in PEM", fix="--key pub.pem")
    told = "every file is the one that was signed, by this key"
    try:
        _compare(folder, signature, key)
    except ArtifactError as error:
        yield claim(told, error.problems[0].why, holds=False)
        return
    left_out = _left_out(folder)
    yield claim(told, sum(_within(file, folder, (SIGNATURE, *left_out)) is None for file in _files(folder)))
    if left_out:
        yield claim("not signed and not looked at: what git and downloads keep", ", ".join(left_out))


def _left_out(folder: Path) -> tuple[str, ...]:
    """Names what is there and is not signed, but for the signature."""
    is_clone = all((folder / CLONE / name).exists() for name in OF_CLONE)
    there = {
        DOWNLOADED: (folder / DOWNLOADED).is_dir(),
        ATTRIBUTES: (folder / ATTRIBUTES).is_file(),
        CLONE: is_clone,
    }
    return tuple(name for name, is_it in there.items() if is_it)


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


def _within(file: Path, folder: Path, names: Iterable[str]) -> str | None:
    """Tells which of the names of a folder a file lies under."""
    return next((name for name in names if file.relative_to(folder).is_relative_to(name)), None)


def _compare(folder: Path, signature: Path, key: Path) -> None:
    """Verifies, with nothing in the folder that was not signed.

    Raises:
        ArtifactError: a file is another, is missing or was added, or the key or the signature is another.
        RecipeError: the key is none.
    """
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, AttributeError) as error:  # it asks the curve of keys that have none
        why = f"it is not the public half of an elliptic-curve key: {_short(error)}"
        raise RecipeError("this key cannot verify", where=f"--key {key}", why=why, fix=NEW_KEY) from error
    left_out = _left_out(folder)
    try:
        how = _serialization(signature)
        verifier.set_hashing_config(_hashing(how, (SIGNATURE, *left_out))).verify(folder, signature)
        passed_over = [str(name) for name in how.get("ignore_paths", ())]
    except NO_BUNDLE as error:
        why = f"it is no bundle of model signing: {type(error).__name__}: {_short(error)}"
        raise ArtifactError("the signature does not hold", where=str(signature), why=why) from error
    except (ValueError, OSError, InvalidSignature) as error:
        raise ArtifactError("the signature does not hold", where=str(signature), why=_short(error)) from error
    looked_at = [file for file in _files(folder) if _within(file, folder, (SIGNATURE, *left_out)) is None]
    if added := [file for file in looked_at if _within(file, folder, passed_over) is not None]:
        names = ", ".join(file.relative_to(folder).as_posix() for file in added)
        why = f"{names[:200]} was added, where the signature looks at nothing"
        raise ArtifactError("the signature does not hold", where=str(signature), why=why)


def _serialization(signature: Path) -> dict[str, Any]:
    """Reads how the files were hashed, which verifying makes sure of."""
    payload = json.loads(signature.read_text(encoding="utf-8"))["dsseEnvelope"]["payload"]
    told: dict[str, Any] = json.loads(base64.b64decode(payload))["predicate"]["serialization"]
    return told


def _hashing(how: dict[str, Any], left_out: Iterable[str]) -> Any:
    """Hashes as a signature does, but leaves out what is named alone; the package would leave out all of `.git*`.

    Raises:
        ValueError: it says of no way to hash that is known.
    """
    from model_signing import hashing

    config, kind = hashing.Config(), how["hash_type"]
    if how["method"] == "files":
        config.use_file_serialization(hashing_algorithm=kind)
    elif how["method"] == "shards":
        config.use_shard_serialization(hashing_algorithm=kind, shard_size=int(how["shard_size"]))
    else:
        raise ValueError(f"its files were hashed by {how['method']!r:.60}, which is not known here")
    return config.set_ignored_paths(paths=left_out, ignore_git_paths=False)


def _public(key: Path) -> bytes:
    """Derives the public half of a key.

    Raises:
        RecipeError: it is no private key, or has a password.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        why = f"it is a private key in PEM, without a password: {_short(error)}"
        raise RecipeError("this key cannot sign", where=f"--sign {key}", why=why, fix=NEW_KEY) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise RecipeError("this key cannot sign", where=f"--sign {key}", why="it is of no elliptic curve", fix=NEW_KEY)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(private.public_key().public_bytes(serialization.Encoding.PEM, form))


def _short(error: Exception) -> str:
    """Says in a line what is wrong; of a folder that differs, which files."""
    text = " ".join(str(error).split())
    if files := re.findall(r"Hash mismatch for \\?'([^'\\]*)", text):
        return f"{', '.join(files[:5])} {'is' if len(files) == 1 else 'are'} not what was signed"
    if found := re.search(r"(Extra|Missing) files[^:]*: ([^\"\]]*)", text):
        return f"{found[2][:200]} {'was added' if found[1] == 'Extra' else 'is missing'}"
    return text[:300] or type(error).__name__


def _check_installed() -> None:
    """Refuses to go on without the extra.

    Raises:
        OutsideError: it is not there.
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        why, fix = f"{' and '.join(missing)} cannot be imported", "pip install 'finetune-proven[signing]'"
        raise OutsideError("signatures take an extra", where="finetune[signing]", why=why, fix=fix)
