"""IEMOCAP (Busso et al. 2008) from the user's own copy of the release, which may not be redistributed.

Layout read here (the release's own):

    IEMOCAP_full_release/Session{1..5}/dialog/EmoEvaluation/*.txt    [start - end] TURN EMOTION [V, A, D]
    IEMOCAP_full_release/Session{1..5}/dialog/transcriptions/*.txt   TURN [start-end]: text

with tabs between the four parts of a rated line.
"""

import re
from pathlib import Path

import numpy as np

from carl.data.fetch import local_folders
from carl.data.rows import counted
from carl.data.tables import Ratings
from carl.errors import CarlError

SCALE = (1.0, 5.0)
_SESSIONS = {1: "train", 2: "train", 3: "train", 4: "dev", 5: "test"}
_RATED = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t\S+\t\[([-\d.]+), ([-\d.]+), ([-\d.]+)\]\s*$")
_SPOKEN = re.compile(r"(\S+) \[[\d.\s-]+\]:(.*)$")


def find() -> dict[str, Path]:
    """The release's label and transcription files, by their path below `IEMOCAP_full_release`.

    Raises:
        CarlError: no copy is found, or a session of it is missing; says where to put it and where to get it.
    """
    places = local_folders("iemocap")
    roots = [
        root
        for place in places
        for root in (place / "IEMOCAP_full_release", place)
        if (root / "Session1").is_dir()
    ]
    if not roots:
        raise CarlError(
            "IEMOCAP is not on this machine: ask for it at https://sail.usc.edu/iemocap/ (free for research) "
            f"and put the release's folder IEMOCAP_full_release into {' or '.join(map(str, places))}."
        )
    files = {}
    for session in _SESSIONS:
        for part in ("EmoEvaluation", "transcriptions"):
            folder = roots[0] / f"Session{session}" / "dialog" / part
            # the release also holds macOS leftovers, "._Ses01F_impro01.txt"
            found = [path for path in sorted(folder.glob("*.txt")) if not path.name.startswith(".")]
            if not found:
                raise CarlError(f"{folder} holds no .txt file; copy the whole release of IEMOCAP there.")
            files.update({path.relative_to(roots[0]).as_posix(): path for path in found})
    return files


def read(files: dict[str, Path]) -> Ratings:
    """Turns with mean ratings on 1-5; sessions 1-3 train, 4 dev, 5 test: no speaker is in two splits.

    Raises:
        CarlError: a line in another form than the release's.
    """
    texts: dict[str, str] = {}
    rated: list[tuple[str, str, float, float]] = []
    for name, path in files.items():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if "/transcriptions/" in name:
            matches = (_SPOKEN.match(line) for line in lines)
            texts.update({match[1]: match[2].strip() for match in matches if match})
            continue
        split = _SESSIONS[int(name.removeprefix("Session")[0])]
        for row, line in enumerate(lines, 1):
            if not line.startswith("["):  # the raters' single votes, and the header
                continue
            match = _RATED.match(line)
            if not match:
                raise CarlError(
                    f"{path}, row {row}: not '[start - end] TURN EMOTION [V, A, D]'; restore the file."
                )
            rated.append((split, match[1], float(match[2]), float(match[3])))

    kept = [turn for turn in rated if texts.get(turn[1])]
    labels = np.array([turn[2:] for turn in kept], dtype=np.float64).reshape(-1, 2)
    notes = ["split by session (1-3 train, 4 dev, 5 test), so no speaker is in two splits"]
    if len(kept) < len(rated):
        notes.append(f"left out {counted(len(rated) - len(kept), 'rated turn')} without a transcription")
    if broken := sum("\ufffd" in texts[turn[1]] for turn in kept):
        notes.append(f"{counted(broken, 'turn')} with bytes that are not UTF-8, each replaced by U+FFFD")
    # Users of the release report a few means just outside the scale of its own questionnaire.
    if outside := int(((labels < SCALE[0]) | (labels > SCALE[1])).any(axis=1).sum()):
        notes.append(f"clipped {counted(outside, 'turn')} with a rating outside {SCALE[0]:g}-{SCALE[1]:g}")
    clipped = np.clip(labels, *SCALE).astype(np.float32)
    return Ratings([texts[turn[1]] for turn in kept], clipped, [turn[0] for turn in kept], tuple(notes))
