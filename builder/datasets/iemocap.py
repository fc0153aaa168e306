"""IEMOCAP: dialogues of two actors per session, five sessions, labelled by turn.

Files, N = 1..5, under a signed licence that forbids redistribution::

    SessionN/dialog/avi/DivX/DIALOG.avi            both actors side by side
    SessionN/dialog/EmoEvaluation/DIALOG.txt       labels; folders next to these files have ratings of single raters
    SessionN/sentences/wav/DIALOG/TURN.wav         the sound of one turn, 16 kHz mono

    DIALOG  Ses0NX_<scene>    scene impro.. or script..; X the actor, F or M, who wears the markers
    TURN    DIALOG_Yiii       Y the actor, F or M, who speaks; the speaker is Ses0NY, not Ses0NX

Label files have a header line that begins with `%`, then for each turn one line, followed by its raters' answers::

    [start - end]<TAB>TURN<TAB>emotion<TAB>[valence, activation, dominance]
    C-E2:<TAB>Neutral;<TAB>()

with times in seconds of the AVI. The clip id is TURN, the sentence is DIALOG.

Option `emotions`: `four` selects the turns labelled ang, hap, exc, sad or neu (5,531 clips), `all` those with
any label except oth (other) and xxx (no agreement).

Option `sound`: `wav` takes a turn's sound from its own WAV, which has the talker's voice, and the AVI's sound only
around the turn or where the WAV is missing; `avi` takes it from the AVI, whose two channels, averaged, have the
listener as loud as the talker.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.datasets.base import ClipSource, Corpus, CorpusError, Region, Scan
from builder.datasets.checks import corpus_folder, read_table, visible_files
from builder.datasets.context import Span, find_contexts
from manifests.corpora import CORPORA
from manifests.schema import Clip

FOUR = frozenset({"ang", "hap", "exc", "sad", "neu"})
NO_EMOTION = frozenset({"oth", "xxx"})
RAW_EMOTIONS = FOUR | {"fru", "sur", "fea", "dis"} | NO_EMOTION
FOUR_CLASS_TURNS = 5531
SOUNDS = ("wav", "avi")

_SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
_LAYOUT = "Session1 ... Session5 with dialog/EmoEvaluation/*.txt and dialog/avi/DivX/*.avi"
_LABEL = re.compile(
    r"\[(?P<start>\d+(?:\.\d+)?) *- *(?P<end>\d+(?:\.\d+)?)\]\s+"
    r"(?P<turn>Ses0[1-5][FM]_(?:impro|script)[0-9A-Za-z_]*_[FM][0-9A-Za-z]{3})\s+(?P<emotion>[a-z]{3})\b.*"
)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One labelled turn of a dialogue."""

    name: str
    segment_seconds: tuple[float, float]
    emotion: str

    @property
    def dialog(self) -> str:
        """`Ses01M_impro01` of `Ses01M_impro01_F000`."""
        return self.name.rpartition("_")[0]

    @property
    def speaker(self) -> str:
        """Session and letter of the speaking actor: `Ses01F` of `Ses01M_impro01_F000`."""
        return self.name[:5] + _speaking_actor(self.name)


def region(turn: str) -> Region:
    """Half of the picture that shows the speaker of a turn: the actor who wears the markers sits on the left."""
    return "left" if _speaking_actor(turn) == turn[5] else "right"


def parse_labels(text: str, where: str) -> Iterator[Turn]:
    """Turns of one label file. Raises CorpusError, naming the line of `where`, for a label that cannot be read."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.lstrip().startswith("["):
            continue  # header, a rater's answer or an empty line
        match = _LABEL.fullmatch(line.strip())
        if match is None:
            raise CorpusError(
                f"{where}:{number}: found {line.strip()[:80]!r}, expected [start - end] TURN emotion [V, A, D]; "
                "restore the file from the corpus"
            )
        yield _turn(match, f"{where}:{number}")


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Labelled turns in the corpus folder, `root` or the only one in it."""
    folder = corpus_folder(root, lambda path: any((path / session).is_dir() for session in _SESSIONS), _LAYOUT)
    wanted = FOUR if options.get("emotions", "four") == "four" else RAW_EMOTIONS - NO_EMOTION
    sources: list[ClipSource] = []
    missing: list[str] = []
    ignored: list[tuple[str, str]] = []
    for session in _SESSIONS:
        found = _scan_session(folder / session, wanted, own_sound=options.get("sound", SOUNDS[0]) == "wav")
        sources += found.sources
        missing += [f"{session}/{name}" for name in found.missing]
        ignored += [(f"{session}/{name}", why) for name, why in found.ignored]
    return Scan(
        root=folder,
        sources=tuple(sources),
        missing=tuple(sorted(missing)),
        ignored=tuple(sorted(ignored)),
        expected_clips=FOUR_CLASS_TURNS if wanted == FOUR else None,
    )


def _scan_session(session: Path, wanted: frozenset[str], *, own_sound: bool) -> Scan:
    """Turns of one session; names in the result are relative to its folder."""
    label_files = [path for path in visible_files(session / "dialog" / "EmoEvaluation", 1) if path.suffix == ".txt"]
    if not label_files:
        return Scan(sources=(), missing=("dialog/EmoEvaluation",))
    turns: list[Turn] = []
    for path in label_files:
        text = read_table(path).decode("latin-1")  # raters' remarks are in no known encoding: accept every byte
        turns += parse_labels(text, str(path))
    used = [turn for turn in turns if turn.emotion in wanted]
    contexts = _find_contexts(turns)
    videos = _by_stem(session / "dialog" / "avi" / "DivX", ".avi")
    sounds = _by_stem(session / "sentences" / "wav", ".wav")
    missing = {f"dialog/avi/DivX/{turn.dialog}.avi" for turn in used if turn.dialog not in videos}
    if (session / "sentences" / "wav").is_dir():
        missing |= {_wav(turn) for turn in used if turn.name not in sounds}
    elif own_sound:
        missing.add("sentences/wav")
    sources = (
        ClipSource(
            clip=Clip(clip_id=turn.name, speaker=turn.speaker, emotion=turn.emotion, sentence=turn.dialog),
            video=videos[turn.dialog],
            sound=sounds.get(turn.name),
            sound_first=own_sound,
            segment_seconds=turn.segment_seconds,
            context_seconds=contexts[turn.name],
            region=region(turn.name),
        )
        for turn in used
        if turn.dialog in videos
    )
    return Scan(
        sources=tuple(sources),
        missing=tuple(missing),
        ignored=tuple((_wav(turn), f"labelled {turn.emotion}") for turn in turns if turn.emotion not in wanted),
    )


def _find_contexts(turns: list[Turn]) -> dict[str, tuple[float, float]]:
    """Turn -> the sound of its dialogue that may be used; turns of any label count as somebody's."""
    contexts: dict[str, tuple[float, float]] = {}
    for dialog in sorted({turn.dialog for turn in turns}):
        inside = [turn for turn in turns if turn.dialog == dialog]
        spans = [
            Span(speaker=turn.speaker, start_seconds=turn.segment_seconds[0], end_seconds=turn.segment_seconds[1])
            for turn in inside
        ]
        contexts |= zip((turn.name for turn in inside), find_contexts(spans), strict=True)
    return contexts


def _speaking_actor(turn: str) -> str:
    return turn.rpartition("_")[2][0]


def _wav(turn: Turn) -> str:
    return f"sentences/wav/{turn.dialog}/{turn.name}.wav"


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.stem: path for path in visible_files(folder, 2) if path.suffix.lower() == suffix}


def _turn(match: re.Match[str], where: str) -> Turn:
    start, end, emotion = float(match["start"]), float(match["end"]), match["emotion"]
    if not start < end < math.inf:
        raise CorpusError(f"{where}: found a turn from {start} to {end} seconds; expected it to end after its start")
    if emotion not in RAW_EMOTIONS:
        raise CorpusError(f"{where}: unknown emotion {emotion!r}; expected one of {', '.join(sorted(RAW_EMOTIONS))}")
    return Turn(name=match["turn"], segment_seconds=(start, end), emotion=emotion)


CORPUS = Corpus(
    name="iemocap",
    title="IEMOCAP: Interactive Emotional Dyadic Motion Capture Database",
    homepage="https://sail.usc.edu/iemocap/",
    citation=(
        "Busso C, Bulut M, Lee CC, Kazemzadeh A, Mower E, Kim S, Chang JN, Lee S, Narayanan SS (2008) IEMOCAP: "
        "interactive emotional dyadic motion capture database. Language Resources and Evaluation 42(4): 335-359. "
        "doi:10.1007/s10579-008-9076-6"
    ),
    facts=CORPORA["iemocap"],
    scan=scan,
    how_to_get=(
        "request access with the release form at https://sail.usc.edu/iemocap/iemocap_release.htm; after the "
        "university has sent a link, unpack the release and set DATA= to the folder with Session1 ... Session5"
    ),
    options={"emotions": ("four", "all"), "sound": SOUNDS},
    shards_gb=8.0,
)
