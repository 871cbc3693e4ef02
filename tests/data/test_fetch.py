import errno
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from carl.data.fetch import Folder, RemoteFile, Sdist, cache_dir, fetch
from carl.errors import CarlError

CONTENT = b"text,v\nA file of the publisher,1\n"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Publisher(BaseHTTPRequestHandler):
    """Serves CONTENT at /whole, half of it at /cut, other bytes at /other."""

    def do_GET(self) -> None:
        body = {"/whole": CONTENT, "/cut": CONTENT[:9], "/other": b"other"}.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(CONTENT) if self.path == "/cut" else len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Publisher)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def folder(url: str) -> Folder:
    return Folder("corp", (RemoteFile("a.csv", sha(CONTENT), url=url),))


def left_behind(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_file_comes_from_the_publisher_once(no_corpora: Path, url: str) -> None:
    path = fetch(folder(f"{url}/whole"), ["a.csv"])["a.csv"]
    assert path == no_corpora / "corp" / "a.csv"
    assert path.read_bytes() == CONTENT
    assert fetch(folder("http://127.0.0.1:1/gone"), ["a.csv"]) == {"a.csv": path}
    assert left_behind(no_corpora) == [path]


def test_carl_data_comes_first(no_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own" / "corp" / "a.csv"
    own.parent.mkdir(parents=True)
    own.write_bytes(CONTENT)
    monkeypatch.setenv("CARL_DATA", str(tmp_path / "own"))
    assert fetch(folder("http://127.0.0.1:1/gone"), ["a.csv"]) == {"a.csv": own}
    own.write_bytes(b"tampered")
    with pytest.raises(CarlError) as caught:
        fetch(folder("http://127.0.0.1:1/gone"), ["a.csv"])
    for said in (str(own), sha(CONTENT), sha(b"tampered"), "delete it"):
        assert said in str(caught.value)


def test_a_tampered_cache_is_told(no_corpora: Path, url: str) -> None:
    path = fetch(folder(f"{url}/whole"), ["a.csv"])["a.csv"]
    path.write_bytes(b"tampered")
    with pytest.raises(CarlError, match=r"corp/a.csv is not the published file .*delete it"):
        fetch(folder(f"{url}/whole"), ["a.csv"])


def test_other_bytes_than_published_are_not_kept(no_corpora: Path, url: str) -> None:
    with pytest.raises(CarlError, match=r"/other sent another a.csv .* nothing was kept"):
        fetch(folder(f"{url}/other"), ["a.csv"])
    assert left_behind(no_corpora) == []


@pytest.mark.parametrize(
    ("page", "reason"),
    [("cut", "ChunkedEncodingError"), ("missing", "HTTP 404"), (None, "ConnectionError")],
    ids=["interrupted", "404", "no network"],
)
def test_a_download_that_fails(no_corpora: Path, url: str, page: str | None, reason: str) -> None:
    address = f"{url}/{page}" if page else "http://127.0.0.1:1/a.csv"
    with pytest.raises(CarlError) as caught:
        fetch(folder(address), ["a.csv"])
    for said in (
        f"{address} ({reason})",
        "check the network",
        "put a.csv into",
        str(no_corpora / "corp"),
        "CARL_DATA",
    ):
        assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_behind(no_corpora) == []


def test_a_full_disk(no_corpora: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        path.open("wb").write(content[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CarlError, match=r"The disk is full .*corp/a.csv; free some space"):
        fetch(folder(f"{url}/whole"), ["a.csv"])
    assert left_behind(no_corpora) == []


def test_two_at_once(no_corpora: Path, url: str) -> None:
    threads = [threading.Thread(target=fetch, args=(folder(f"{url}/whole"), ["a.csv"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in left_behind(no_corpora)] == [CONTENT]


def test_the_cache_is_the_platforms_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CARL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("CARL_CACHE")
    assert cache_dir().name in ("carl", "Cache")


# Files inside source archives, which come with pip.

INNER = tar_gz({"in/one.txt": b"1", "in/two.txt": b"2"})
ARCHIVE = tar_gz({"pack-1.0/data.tar.gz": INNER, "pack-1.0/setup.py": b"raise SystemExit"})
SDIST = Sdist("pack", "1.0", sha(ARCHIVE))
INSIDE = Folder(
    "inside",
    tuple(
        RemoteFile(name, sha(content), sdist=SDIST, members=("pack-1.0/data.tar.gz", f"in/{name}"))
        for name, content in (("one.txt", b"1"), ("two.txt", b"2"))
    ),
)


class Pip:
    """Stands in for `subprocess.run`: writes an archive, or fails with what pip would say."""

    def __init__(self, archive: bytes = ARCHIVE, errors: tuple[str, ...] = ()):
        self.archive = archive
        self.errors = list(errors)
        self.commands: list[list[str]] = []
        self.requirements = ""

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.requirements = Path(command[command.index("--requirement") + 1]).read_text()
        if self.errors:
            return subprocess.CompletedProcess(command, 1, "", self.errors.pop(0))
        Path(command[command.index("--dest") + 1], "pack-1.0.tar.gz").write_bytes(self.archive)
        return subprocess.CompletedProcess(command, 0, "", "")


def use(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> Pip:
    monkeypatch.setattr("carl.data.fetch.subprocess.run", pip)
    return pip


def test_one_archive_fills_the_folder(no_corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use(monkeypatch, Pip())
    assert fetch(INSIDE, ["one.txt"])["one.txt"].read_bytes() == b"1"
    assert fetch(INSIDE, ["two.txt"])["two.txt"].read_bytes() == b"2"
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--require-hashes" in command
    assert not any("index" in word or "://" in word for word in command)  # the user's own settings hold
    assert pip.requirements == f"pack==1.0 --hash=sha256:{SDIST.sha256}\n"
    assert sorted(path.name for path in left_behind(no_corpora)) == ["one.txt", "two.txt"]


def test_setuptools_may_come_from_this_environment(no_corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = use(monkeypatch, Pip(errors=("ERROR: No matching distribution found for setuptools>=40",)))
    fetch(INSIDE, ["one.txt"])
    assert [command[-1] for command in pip.commands[1:]] == ["--no-build-isolation"]


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("/bin/python: No module named pip", "fetched with pip, which is missing: run python -m ensurepip"),
        (
            "...\nERROR: No matching distribution found for pack==1.0\n",
            "No matching distribution .*check the network",
        ),
        (
            "ERROR: Could not install: [Errno 28] No space left on device",
            "The disk is full while pip fetches",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM",
            "sent another pack==1.0 than the published one",
        ),
        ("", "no message"),
    ],
)
def test_pip_fails(no_corpora: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, message: str) -> None:
    use(monkeypatch, Pip(errors=(stderr, stderr)))
    with pytest.raises(CarlError, match=message) as caught:
        fetch(INSIDE, ["one.txt"])
    for said in ("pack==1.0", "put one.txt into", str(no_corpora / "inside"), "CARL_DATA"):
        assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_behind(no_corpora) == []


@pytest.mark.parametrize(
    "archive",
    [ARCHIVE[:60], b"no archive", tar_gz({"pack-1.0/data.tar.gz": INNER[:40]}), tar_gz({"else": b""})],
)
def test_a_damaged_archive(no_corpora: Path, monkeypatch: pytest.MonkeyPatch, archive: bytes) -> None:
    use(monkeypatch, Pip(archive))
    with pytest.raises(CarlError, match=r"archive of pack==1.0 is damaged"):
        fetch(INSIDE, ["one.txt"])
    assert left_behind(no_corpora) == []


def test_a_tampered_member(no_corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Pip(tar_gz({"pack-1.0/data.tar.gz": tar_gz({"in/one.txt": b"?"})})))
    with pytest.raises(CarlError, match=r"pack==1.0 sent another one.txt"):
        fetch(INSIDE, ["one.txt"])
    assert left_behind(no_corpora) == []
