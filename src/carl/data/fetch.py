"""Getting a corpus's files: from the user's folder, the cache or the publisher, hashes always checked.

Two environment variables: `CARL_DATA`, a folder that already holds corpora (`<folder>/<file>`), and
`CARL_CACHE`, which stands in for the platform's cache folder.
"""

import hashlib
import io
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from carl.data.files import atomic_path, sha256
from carl.errors import CarlError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sdist:
    """A source distribution on PyPI, pinned."""

    project: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.project}=={self.version}"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a corpus and where its publisher keeps it.

    Either `url`, or `sdist` with `members`: the path inside it, then the path inside the archive found there.
    """

    name: str
    sha256: str
    url: str = ""
    sdist: Sdist | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder:
    """A publisher's files, kept in one folder of that name."""

    name: str
    files: tuple[RemoteFile, ...]


def cache_dir() -> Path:
    """The folder for everything that can be fetched again: `CARL_CACHE`, or the platform's cache folder."""
    return Path(os.environ.get("CARL_CACHE") or platformdirs.user_cache_dir("carl"))


def local_folders(name: str) -> list[Path]:
    """Where the files of folder `name` may lie, in the order of looking; the last is the cache."""
    own = os.environ.get("CARL_DATA")
    return [*([Path(own) / name] if own else []), cache_dir() / "data" / name]


def fetch(folder: Folder, names: Sequence[str]) -> dict[str, Path]:
    """Paths of the named files of `folder`, fetched where they are not on this machine yet.

    Raises:
        CarlError: no network (or no such file there), a file that is not the published one, a full disk.
    """
    wanted = [file for file in folder.files if file.name in names]
    return {file.name: _local(folder, file) or _from_publisher(folder, file) for file in wanted}


def _local(folder: Folder, file: RemoteFile) -> Path | None:
    for place in local_folders(folder.name):
        path = place / file.name
        if path.is_file():
            found = sha256(path)
            if found != file.sha256:
                raise CarlError(
                    f"{path} is not the published file (expected sha256 {file.sha256}, found {found}); "
                    "delete it, and it will be fetched again."
                )
            return path
    return None


def _from_publisher(folder: Folder, file: RemoteFile) -> Path:
    cache = local_folders(folder.name)[-1]
    if file.sdist is None:
        return _download(file, cache / file.name)
    archive = _pip_download(file.sdist, cache / file.name)
    # One archive holds several files: taking them all now spares the next corpus the download.
    for other in folder.files:
        if other.sdist == file.sdist:
            _store(other, _member(archive, other), cache / other.name)
    return cache / file.name


def _store(file: RemoteFile, content: bytes, path: Path) -> Path:
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise CarlError(
            f"{file.url or file.sdist} sent another {file.name} than the published one (expected sha256 "
            f"{file.sha256}, found {found}); nothing was kept: try again, or put the file into {path.parent}."
        )
    with atomic_path(path) as part:
        part.write_bytes(content)
    return path


def _download(file: RemoteFile, path: Path) -> Path:
    import pooch  # here, with requests behind it: only a download needs them
    import requests

    logger.info("fetching %s", file.url)
    # Through memory: these files are small, and what has not passed its hash check never touches the cache.
    buffer = io.BytesIO()
    try:
        pooch.HTTPDownloader(progressbar=False, timeout=30)(file.url, buffer, None)
    except requests.RequestException as error:
        reason = f"HTTP {error.response.status_code}" if error.response is not None else type(error).__name__
        raise CarlError(
            f"Could not fetch {file.url} ({reason}); check the network, or put {file.name} "
            f"into {path.parent} (or into {path.parent.name}/ of the folder that CARL_DATA names)."
        ) from error
    return _store(file, buffer.getvalue(), path)


def _pip_download(sdist: Sdist, path: Path) -> bytes:
    """The sdist's bytes, got with pip, so that the user's index, proxy and certificates hold.

    pip prepares the metadata of what it downloads, which runs the sdist's setup.py: `--require-hashes` makes
    sure that this is the pinned one. setuptools, which that needs, comes from the index (pip's isolated
    build) or else from this environment.
    """
    logger.info("fetching %s with pip", sdist)
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary, "requirements.txt")
        requirements.write_text(f"{sdist} --hash=sha256:{sdist.sha256}\n", encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        command += ["--no-deps", "--no-binary", sdist.project, "--require-hashes"]
        command += ["--requirement", str(requirements), "--dest", temporary]
        for fallback in ([], ["--no-build-isolation"]):
            done = subprocess.run([*command, *fallback], capture_output=True, text=True, errors="replace")
            if done.returncode == 0 or "setuptools" not in done.stderr:
                break
        if done.returncode:
            raise _pip_error(sdist, path, done.stderr)
        found = list(Path(temporary).glob("*.tar.gz"))
        if len(found) != 1:
            raise CarlError(
                f"pip downloaded no source archive of {sdist}; put {path.name} into {path.parent}."
            )
        return found[0].read_bytes()


def _pip_error(sdist: Sdist, path: Path, stderr: str) -> CarlError:
    folder = path.parent
    remedy = f"or put {path.name} into {folder} (or into {folder.name}/ of the folder that CARL_DATA names)."
    if "No module named pip" in stderr:
        return CarlError(f"{sdist} is fetched with pip, which is missing: run python -m ensurepip, {remedy}")
    if "No space left on device" in stderr:
        return CarlError(f"The disk is full while pip fetches {sdist}; free some space, {remedy}")
    if "DO NOT MATCH THE HASHES" in stderr:
        return CarlError(
            f"pip was sent another {sdist} than the published one; check the index it uses, {remedy}"
        )
    return CarlError(
        f"pip could not fetch {sdist} ({_last_line(stderr)}); check the network and pip's settings, {remedy}"
    )


def _member(archive: bytes, file: RemoteFile) -> bytes:
    """Read one member of a tar.gz, through the archives nested in it; nothing is extracted to disk."""
    content = archive
    try:
        for member in file.members:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
                stream = tar.extractfile(member)
                if stream is None:
                    raise KeyError(member)
                content = stream.read()
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        raise CarlError(f"The archive of {file.sdist} is damaged ({error}); try again.") from error
    return content


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
