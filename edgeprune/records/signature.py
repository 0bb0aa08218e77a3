"""Who vouches for a bundle: a signature in minisign's format of ``build.json``, which has every other file's digest.

``minisign -Vm build.json -p minisign.pub`` checks it too, and what ``minisign -Sm build.json`` signed is checked here.
"""

from __future__ import annotations

import base64
import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeprune.artifact import write_atomically
from edgeprune.errors import DataError, StageError, first_line
from edgeprune.reading import exists, read_bytes, shown
from edgeprune.records.build import BuildRecord
from edgeprune.records.show import RECORD
from edgeprune.records.verify import verify_build
from edgeprune.version import pip_extra
from edgeprune.workspace import held_build

SIGNATURE = f"{RECORD}.minisig"
MAX_KEY_BYTES = 1 << 16  # keys and signatures are a few lines
OURS = "edgeprune "  # begins the comment of edgeprune sign
TRUSTED = "trusted comment: "
SIGNATURE_BYTES = [2 + 8 + 64, 64]  # algorithm, key number and Ed25519; Ed25519 of that with the comment


def sign_build(directory: Path, key: Path, password: Callable[[], str]) -> Path:
    """Sign a bundle that is as it was built: the very bytes that were verified, under a comment from them.

    Args:
        directory: run directory or bundle.
        key: secret key of minisign.
        password: asked only where the key is encrypted.

    Returns:
        The signature, beside ``build.json``; an older one is replaced.

    Raises:
        DataError: the bundle is not as it was built, the key is none, or the password is wrong.
        StageError: py-minisign is not installed, or a build works in the run directory.
    """
    content = read_bytes(key, most=MAX_KEY_BYTES)  # a wrong name is told before what is to be installed
    minisign = _library()
    with held_build(directory):
        verify_build(directory).require_as_built()  # before a password is asked for
    with contextlib.ExitStack() as stack:
        try:
            secret = stack.enter_context(minisign.SecretKey.from_bytes(content))
            if secret.is_encrypted():
                secret.decrypt(password())
        except ValueError as error:
            raise _cannot_sign(key, error) from error
        stack.enter_context(held_build(directory))  # again: not while somebody types
        verified = verify_build(directory)
        verified.require_as_built()
        try:
            signature = bytes(secret.sign(verified.content, trusted_comment=_comment(verified.record)))
        except ValueError as error:
            raise _cannot_sign(key, error) from error
        write_atomically(verified.bundle / SIGNATURE, signature)
        return verified.bundle / SIGNATURE


def _comment(record: BuildRecord) -> str:
    """What a signature vouches for besides the bytes, in words."""
    verdict = f"{record.target.name}, {record.verdict.value}, built {record.created}"
    return shown(f"{OURS}{record.edgeprune}: {verdict}")


def refuse_other_signature(bundle: Path, record: BuildRecord) -> None:
    """Raise ``DataError`` where what lies beside ``build.json`` can be seen to be no signature of it, without a key.

    Whether the bytes are those that were signed takes the public key (:func:`check_signature`). Without one the form
    can be checked, and the comment that ``edgeprune sign`` wrote: an import changes the verdict.
    """
    path = bundle / SIGNATURE
    lines = read_bytes(path, most=MAX_KEY_BYTES).decode(errors="replace").splitlines()
    try:
        untrusted, signature, trusted, vouching = lines[:4]
        sizes = [len(base64.b64decode(text, validate=True)) for text in (signature, vouching)]
        formed = untrusted.startswith("untrusted comment:") and trusted.startswith(TRUSTED) and sizes == SIGNATURE_BYTES
    except ValueError:
        formed, trusted = False, ""
    if not formed:
        raise DataError(f"{shown(path)}: is no signature of minisign; remove it, or next: {_how_to_sign(bundle)}")
    comment = trusted.removeprefix(TRUSTED)
    if comment.startswith(OURS) and comment != _comment(record):
        raise DataError(
            f"{shown(path)}: is of another build ({shown(comment)}), and this one is: {_comment(record)}; sign again, "
            f"next: {_how_to_sign(bundle)}"
        )


def _how_to_sign(bundle: Path) -> str:
    return f"edgeprune sign {shlex.quote(str(bundle))} --key SECRET_KEY"


def _cannot_sign(key: Path, error: ValueError) -> DataError:
    return DataError(f"{shown(key)}: cannot sign: {first_line(error)} (minisign -G makes a pair of keys)")


def check_signature(bundle: Path, key: Path, content: bytes | None = None) -> str:
    """What was signed with it: the comment that the signature vouches for too.

    Args:
        bundle: folder of ``build.json``.
        key: public key of minisign.
        content: bytes of its ``build.json``, where they were read and verified before; read here when None.

    Raises:
        DataError: there is no signature, it is none of this key, or of another ``build.json``.
        StageError: py-minisign is not installed.
    """
    written = read_bytes(key, most=MAX_KEY_BYTES)  # a wrong name is told before what is to be installed
    minisign = _library()
    path = bundle / SIGNATURE
    try:
        public = minisign.PublicKey.from_bytes(written)
    except ValueError as error:
        raise DataError(f"{shown(key)}: is no public key of minisign: {first_line(error)}") from error
    if not exists(path):
        raise DataError(f"{shown(path)}: is missing, nobody signed this bundle; next: {_how_to_sign(bundle)}")
    try:
        signature = minisign.Signature.from_bytes(read_bytes(path, most=MAX_KEY_BYTES))
        public.verify(read_bytes(bundle / RECORD) if content is None else content, signature)
    except minisign.VerifyError as error:
        raise DataError(
            f"{shown(path)}: does not vouch for {RECORD} by {shown(key)}: {first_line(error)}; another key signed it, "
            f"or {RECORD} was changed afterwards (results that were imported do that: sign again)"
        ) from error
    except ValueError as error:
        raise DataError(f"{shown(path)}: is no signature of minisign: {first_line(error)}") from error
    return shown(signature.trusted_comment)


def _library() -> Any:
    try:
        import minisign
    except ImportError as error:
        raise StageError(f"signatures need py-minisign; next: {pip_extra('sign', 'py-minisign')}") from error
    return minisign
