"""Two things every reader and writer of files here needs: a hash, and writes that are whole or absent."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from carl.errors import CarlError


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a fresh path beside `path`; what is written there takes its place when the block ends well.

    The folder is made where it is missing. After an error, or Ctrl-C, neither file is left and an older
    `path` is untouched. Processes that write the same file do not meet: each has its own fresh path.

    Raises:
        CarlError: the folder cannot be written to, or its disk is full.
    """
    # A new name rather than tempfile's file, whose permissions would be for the owner alone.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        # Errors of the network are OSErrors too: they carry no errno of the file system and pass through.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CarlError(
                f"The disk is full while writing {path}; free some space on the disk of {path.parent}, "
                "or choose a folder on another one."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise CarlError(
                f"Cannot write {path} ({os.strerror(error.errno)}); choose a folder that you may write to."
            ) from error
        raise
    finally:
        with suppress(OSError):  # moved into place, or never written
            part.unlink()
