"""Corpus folders with the real layouts and name grammars, and placeholders for media.

The grammars are written out here a second time, independent of the adapters. Pass `write` to put real
recordings where scanning alone needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

Writer = Callable[[Path], None]

RAW_EMOTIONS: Mapping[str, frozenset[str]] = {
    "ravdess": frozenset(["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]),
    "crema-d": frozenset(["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]),
    "iemocap": frozenset(["ang", "hap", "exc", "sad", "neu", "fru", "sur", "fea", "dis", "oth", "xxx"]),
    "mead": frozenset(["angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised"]),
    "demo": frozenset(["happy", "angry", "calm", "sad"]),
}
SPEAKERS: Mapping[str, tuple[str, ...]] = {
    "ravdess": tuple(f"{actor:02d}" for actor in range(1, 25)),
    "crema-d": tuple(str(actor) for actor in range(1001, 1092)),
    "iemocap": tuple(f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM"),
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 265922\n"

#: (start, end, turn, emotion) of one labelled turn of IEMOCAP.
Label = tuple[float, float, str, str]


def placeholder(path: Path) -> None:
    """A file that is no recording."""
    path.write_bytes(b"placeholder")


def put(path: Path, write: Writer = placeholder) -> Path:
    """Write a file and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    return path


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def ravdess_names(actor: str) -> list[str]:
    """Stems of one actor's 60 speech videos."""
    emotions = [("01", "01"), *product([f"{code:02d}" for code in range(2, 9)], ("01", "02"))]
    return [
        f"01-01-{emotion}-{intensity}-{statement}-{repetition}-{actor}"
        for (emotion, intensity), statement, repetition in product(emotions, ("01", "02"), ("01", "02"))
    ]


def ravdess(root: Path, actors: Iterable[str] = ("01", "02", "24"), write: Writer = placeholder) -> Path:
    """`Actor_NN/*.mp4`, all 60 of each actor."""
    for actor in actors:
        for name in ravdess_names(actor):
            put(root / f"Actor_{actor}" / f"{name}.mp4", write)
    return root


CREMA_D_CLIPS = tuple(
    f"{actor}_{sentence}_{emotion}_{level}"
    for actor in ("1001", "1002", "1091")
    for emotion in ("ANG", "DIS", "FEA", "HAP", "SAD")
    for sentence, level in (("DFA", "XX"), ("IEO", "LO"), ("IEO", "HI"))
)


def crema_d(
    root: Path, clips: Iterable[str] = CREMA_D_CLIPS, *, sounds: bool = True, write: Writer = placeholder
) -> Path:
    """`VideoFlash/*.flv` and, unless left out, `AudioWAV/*.wav`."""
    for clip in clips:
        put(root / "VideoFlash" / f"{clip}.flv", write)
        if sounds:
            put(root / "AudioWAV" / f"{clip}.wav", write)
    return root


def iemocap_label_file(labels: Sequence[Label]) -> str:
    """A label file: header, then each turn with raters' answers."""
    blocks = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"]
    for start, end, turn, emotion in labels:
        blocks.append(
            f"[{start:.4f} - {end:.4f}]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]\n"
            "C-E2:\tNeutral;\t()\nC-F1:\tNeutral; Other;\t(wistful)\nA-E3:\tval 3; act 2; dom  2;\t()"
        )
    return "\n\n".join(blocks) + "\n"


def iemocap_dialog(
    root: Path, dialog: str, labels: Sequence[Label], *, sounds: bool = True, write: Writer = placeholder
) -> None:
    """One dialogue: label file, single raters' folder (to be left alone), AVI and the turns' WAVs."""
    session = root / f"Session{dialog[4]}"
    text = iemocap_label_file(labels)
    put(session / "dialog/EmoEvaluation" / f"{dialog}.txt", lambda path: _write_text(path, text))
    put(session / "dialog/EmoEvaluation/Categorical" / f"{dialog}_e1_cat.txt")
    put(session / "dialog/avi/DivX" / f"{dialog}.avi", write)
    if sounds:
        for _, _, turn, _ in labels:
            put(session / "sentences/wav" / dialog / f"{turn}.wav", write)


def iemocap(root: Path, sessions: Iterable[int] = (1, 2, 3), write: Writer = placeholder) -> Path:
    """Two dialogues a session, one for each wearer of the markers; both actors talk in both."""
    for session, wearer in product(sessions, "FM"):
        dialog = f"Ses0{session}{wearer}_{'impro01' if wearer == 'F' else 'script01_1'}"
        emotions = sorted(RAW_EMOTIONS["iemocap"])
        labels = [
            (float(2 * index), 2 * index + 1.5, f"{dialog}_{'FM'[index % 2]}{index:03d}", emotion)
            for index, emotion in enumerate(emotions)
        ]
        iemocap_dialog(root, dialog, labels, write=write)
    return root


def mead(root: Path, actors: Iterable[str] = ("M003", "M030", "W009"), write: Writer = placeholder) -> Path:
    """Every emotion and level of each actor from two sides, one sentence each, and its sound beside it."""
    for actor, emotion, level in product(actors, sorted(RAW_EMOTIONS["mead"]), (1, 2, 3)):
        if (emotion, level) not in (("neutral", 2), ("neutral", 3)):
            for view in ("front", "left_30"):
                put(root / actor / "video" / view / emotion / f"level_{level}" / "001.mp4", write)
            put(root / actor / "audio" / emotion / f"level_{level}" / "001.m4a", write)
    return root


def voxceleb2(root: Path, write: Writer = placeholder) -> Path:
    """Two videos of each of three speakers in both parts, two tracks each."""
    for part, speaker, video, track in product(("dev", "test"), "123", ("-0aB_cD1eF2", "zYx-wV_U9tS"), "12"):
        number = int(speaker) + (0 if part == "dev" else 5000)
        put(root / part / "mp4" / f"id{number:05d}" / video / f"0000{track}.mp4", write)
    return root


def folder(root: Path, write: Writer = placeholder) -> Path:
    """Two clips of each of three speakers, in folders, with names that need care."""
    rows = ["clip,speaker,emotion,intensity,sentence"]
    for speaker, emotion in product(("anna", "ben", "zoe"), ("joy", "fear")):
        name = f"Día 1/{speaker} #{emotion}.mp4"
        put(root / name, write)
        rows.append(f"{name},{speaker},{emotion},,hello")
    put(root / "clips.csv", lambda path: _write_text(path, "\n".join(rows) + "\n"))
    return root


#: Corpus name -> writer of a small tree: three speakers or more, every emotion, nothing missing for a clip.
TREES: Mapping[str, Callable[[Path], Path]] = {
    "ravdess": ravdess,
    "crema-d": crema_d,
    "iemocap": iemocap,
    "mead": mead,
    "voxceleb2": voxceleb2,
    "folder": folder,
}
