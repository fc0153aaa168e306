"""Property-based fuzzing: for any content of a file, its parser returns a value or raises its documented error.

Valid files are damaged: bytes are cut, overwritten and inserted; in JSON files any value is replaced, removed or added.
Faults that were found here have regression tests in the tests of the parser.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
import struct
import subprocess
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import media
from builder.datasets import iemocap, scan_corpus
from builder.datasets.base import CorpusError
from builder.decoders import ffmpeg
from builder.timeline import uniform
from manifests import folds, index, schema, sequence, tokens
from manifests.errors import UserError
from manifests.fetch import fetch
from manifests.shard_writer import find_earlier_build
from manifests.share import ShareOptions, share
from manifests.stores import LocalStore
from manifests.verify import verify
from manifests.withdraw import withdraw
from tests.factories import corpora
from tests.factories import media as media_factory
from tests.factories.builder_shards import edit_json, resign, shard_folder
from tests.factories.samples import sample, sequence_sample, token_sample

QUICK, THOROUGH = 100, 4000

#: Values from attackers and accidents.
HOSTILE = (
    *(None, True, -1, 0, 2**63, 1e308, "", "..", "../x", "/etc/passwd", "a/../b", "pipe:cat", "file:///x", "x" * 5000),
    *("\x00", "\n", "\ud800", "é", [], {}, [[]] * 50, {"a": {"b": {}}}, float("nan"), float("inf")),
)


@dataclass(frozen=True)
class Parser:
    """A parser of untrusted bytes."""

    whole: Callable[[Path], bytes]
    """Returns a valid file from a finished folder of shards."""
    read: Callable[[bytes, Path], object]
    """Parses such bytes; the folder is a writable copy of the finished one."""
    errors: tuple[type[Exception], ...]


def _file(name: str, read: Callable[[Path], object], *errors: type[Exception]) -> Parser:
    """Parser of a file in a folder of shards."""

    def put(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return read(folder)

    return Parser(lambda folder: (folder / name).read_bytes(), put, errors)


def _speakers(folder: Path) -> dict[str, str]:
    return {path.name: path.name.removesuffix("-000.tar") for path in folder.glob("*.tar")}


_INDEX_ERRORS = (index.ManifestError, schema.SchemaError)
_LABELS = corpora.iemocap_label_file(
    [(0.5, 2.25, "Ses01F_impro01_F000", "hap"), (2.5, 4.0, "Ses01F_impro01_M000", "neu")]
)

PARSERS = {
    "dataset.json": _file(index.DATASET_FILE, index.load_dataset, *_INDEX_ERRORS),
    "clips.jsonl": _file(index.CLIPS_FILE, lambda folder: list(index.load_rows(folder)), *_INDEX_ERRORS),
    "SHA256SUMS": _file(index.SUMS_FILE, index.load_checksums, *_INDEX_ERRORS),
    "receipt": _file(
        "receipts/anna-000.json", lambda folder: index.load_receipt(folder / "receipts/anna-000.json"), *_INDEX_ERRORS
    ),
    "tar": _file("anna-000.tar", lambda folder: index.member_byte_ranges(folder / "anna-000.tar"), schema.SchemaError),
    "fold file": Parser(
        lambda folder: (folder / "folds/loso.json").read_bytes(),
        lambda data, folder: folds.read_fold_file(data, _speakers(folder), "x"),
        (folds.FoldError,),
    ),
    "fold scheme": Parser(
        lambda folder: (Path(folds.__file__).parent / "folds/ravdess-6fold.json").read_bytes(),
        lambda data, folder: folds.parse_scheme(data, "x"),
        (folds.FoldError,),
    ),
    "IEMOCAP labels": Parser(
        lambda folder: _LABELS.encode(),
        lambda data, folder: list(iemocap.parse_labels(data.decode(errors="replace"), "x")),
        (CorpusError,),
    ),
    **{
        f"member {name}": Parser(
            lambda folder, name=name: schema.encode(sample())[name],
            lambda data, folder, name=name: schema.decode({**schema.encode(sample()), name: data}),
            (schema.SchemaError,),
        )
        for name in schema.member_names(("mfcc",))
    },
    **{
        f"sequence {name}": Parser(
            lambda folder, name=name: sequence.encode(sequence_sample())[name],
            lambda data, folder, name=name: sequence.check({**sequence.encode(sequence_sample()), name: data}),
            (schema.SchemaError,),
        )
        for name in sequence.MEMBERS
    },
    **{
        f"tokens {name}": Parser(
            lambda folder, name=name: tokens.encode(token_sample())[name],
            lambda data, folder, name=name: tokens.check({**tokens.encode(token_sample()), name: data}),
            (schema.SchemaError,),
        )
        for name in tokens.MEMBERS
    },
}

VERIFIED = ("dataset.json", "clips.jsonl", "SHA256SUMS", "receipts/anna-000.json", "anna-000.tar", "folds/loso.json")


def damaged(data: bytes, source: random.Random) -> bytes:
    """Cut, overwrite and insert a few bytes."""
    for _ in range(source.randint(1, 4)):
        at, length = source.randrange(len(data) + 1), source.choice((0, 1, 2, 8, 100))
        by = source.choice(
            (b"", b"\x00", b"\xff" * 8, b"{", b'"', b"9" * 30, source.randbytes(source.choice((1, 8, 64))))
        )
        data = data[:at] + by + data[at + length :]
    return data


def altered(data: bytes, source: random.Random) -> bytes:
    """Replace, remove or add a few values anywhere in JSON or JSON Lines; other files stay unchanged."""
    lines = data.split(b"\n") if data.count(b"\n") > 1 and data.lstrip().startswith(b'{"') else [data]
    at = source.randrange(max(len(lines) - 1, 1))
    try:
        value = json.loads(lines[at])
    except ValueError:
        return data
    for _ in range(source.randint(1, 3)):
        holders = [value, *(inner for inner in _inside(value) if isinstance(inner, dict | list) and inner)]
        _change(source.choice(holders), source)
    lines[at] = json.dumps(value).encode()
    return b"\n".join(lines)


def _inside(value: Any) -> Iterator[Any]:
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield inner
        yield from _inside(inner)


def _change(holder: Any, source: random.Random) -> None:
    places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    place, hostile = source.choice(places or [0]), copy.deepcopy(source.choice(HOSTILE))
    what = source.randrange(4)
    if what == 0 and places:
        del holder[place]
    elif what == 1 and isinstance(holder, dict):
        holder[str(source.choice(HOSTILE))[:40]] = hostile
    elif what == 1:
        holder.append(hostile)
    elif places:
        holder[place] = hostile


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder that no test changes."""
    return shard_folder(tmp_path_factory.mktemp("fuzz") / "whole")


@pytest.fixture(scope="module")
def scratch(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path_factory.mktemp("fuzz") / "scratch"))


def _efforts(quick: int = QUICK) -> list[Any]:
    return [pytest.param(quick, id="quick"), pytest.param(THOROUGH, id="thorough", marks=pytest.mark.slow)]


def _repeat(examples: int, attempt: Callable[[random.Random], None]) -> None:
    """Call `attempt` with many random sources, the same in every run; a failure shows the smallest example."""

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def tried(source: random.Random) -> None:
        attempt(source)

    tried()


@pytest.mark.parametrize("examples", _efforts())
@pytest.mark.parametrize("name", PARSERS)
def test_a_damaged_file_gives_a_value_or_the_documented_error(
    name: str, examples: int, whole: Path, scratch: Path, record_property: Callable[[str, object], None]
) -> None:
    parser = PARSERS[name]
    data, refused = parser.whole(whole), 0

    def attempt(source: random.Random) -> None:
        nonlocal refused
        bad = source.choice((damaged, altered))(data, source)
        try:
            parser.read(bad, scratch)
        except parser.errors as error:
            refused += 1
            assert str(error).isprintable()

    _repeat(examples, attempt)
    assert refused > examples / 20  # most damage is noticed; otherwise the test tests nothing
    parser.read(data, scratch)
    record_property("fuzzed", f"{name}: {examples} damaged, {refused} refused")


@pytest.mark.parametrize("examples", _efforts())
def test_a_damaged_folder_gives_problems_or_the_documented_error(examples: int, whole: Path, scratch: Path) -> None:
    """Any file of a folder is damaged; `verify` lists problems or raises its documented error."""
    unseen = 0

    def attempt(source: random.Random) -> None:
        nonlocal unseen
        name = source.choice(VERIFIED)
        data = (whole / name).read_bytes()
        bad = source.choice((damaged, altered))(data, source)
        (scratch / name).write_bytes(bad)
        try:
            unseen += not verify(scratch, full=True) and bad != data
        except _INDEX_ERRORS as error:
            assert str(error).isprintable()
        finally:
            (scratch / name).write_bytes(data)

    _repeat(examples // 2, attempt)
    # SHA256SUMS protects the other files; its own bytes may change without a change of its content (a final newline).
    assert unseen <= examples / 20


#: Names of a shard folder, of its leftovers, and one that it does not know.
PLACES = (
    *("dataset.json", "SHA256SUMS", "clips.jsonl", "README.md", "croissant.json", "fetched.json", "report.html"),
    *("receipts", "receipts/anna-000.json", "receipts/.anna-000.json.part", "folds", "folds/loso.json", "anna-000.tar"),
    *(".lock", ".withdrawing", ".source", ".anna-000.tar.part", ".fetched.json.1f.part", "notes", ".hidden"),
)
COMMANDS: dict[str, Callable[[Path, Path], object]] = {
    "fetch": lambda folder, whole: fetch(str(whole), folder, prune=True),
    "share from": lambda folder, whole: share(folder, LocalStore(path=folder.parent / "copy"), ShareOptions()),
    "share to": lambda folder, whole: share(whole, LocalStore(path=folder), ShareOptions(prune=True)),
    "withdraw": lambda folder, whole: withdraw(folder, ["anna"]),
    "verify": lambda folder, whole: verify(folder, full=True),
    "build": lambda folder, whole: find_earlier_build(folder, "folder", index.load_dataset(whole).identity),
}


def _put_strange(path: Path, outside: Path, source: random.Random) -> None:
    """Put something into the place of a file or a folder, or of nothing, as a stranger may."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    kind = source.choice(("file", "folder", "nowhere", "loop", "pipe", "text", "hard link", "deep"))
    if kind in ("file", "folder"):
        path.symlink_to(outside / "precious" if kind == "file" else outside)
    elif kind in ("nowhere", "loop"):
        path.symlink_to(outside / "absent" if kind == "nowhere" else ".")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        speakers = source.sample(["anna", "ben", "cleo", "zoe", "../x", "\x1b"], source.randrange(4))
        path.write_bytes(source.choice((json.dumps(speakers).encode(), b"[" * 9999, b"", b'{"source": "x"}')))
    elif kind == "hard link":
        os.link(outside / "precious", path)
    else:
        (path / "a" / "b" / "c" / ".x.part").mkdir(parents=True)


@pytest.mark.parametrize("examples", _efforts())
def test_a_folder_from_a_stranger_reaches_nothing_outside(examples: int, whole: Path, tmp_path: Path) -> None:
    """Any entry is a link, a pipe, another's file or claimed state; whatever the command, nothing waits for it."""
    outside, folder, refused = tmp_path / "outside", tmp_path / "folder", 0
    shutil.copytree(whole / "receipts", outside)
    for name in ("precious", ".x.part", ".anna-000.json.part"):
        (outside / name).write_text("mine")
    source_folder = Path(shutil.copytree(whole, tmp_path / "source"))
    edit_json(source_folder / "dataset.json", lambda value: value["about"].update(redistributable=True))
    resign(source_folder)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}

    def attempt(source: random.Random) -> None:
        nonlocal refused
        for path in (folder, tmp_path / "copy"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source_folder, folder)
        places = source.sample(PLACES, source.randint(1, 2))
        for place in places:
            if (folder / place).parent.is_dir() and not (folder / place).parent.is_symlink():
                _put_strange(folder / place, outside, source)
        command = source.choice(list(COMMANDS))
        try:
            refused += bool(COMMANDS[command](folder, source_folder)) and command == "verify"
        except (UserError, OSError) as error:
            refused += 1
            assert isinstance(error, OSError) or str(error).isprintable()
        assert {path.name: path.read_bytes() for path in outside.iterdir()} == before, (command, places)

    _repeat(examples // 2, attempt)
    assert refused > examples / 5


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)
    | st.from_regex(r"[0-9]{2}(-[0-9]{2}){5,7}\.(mp4|flv|wav)", fullmatch=True)
    | st.from_regex(r"1[01][0-9]{2}_[A-Z]{3}_[A-Z]{3}_[A-Z]{2}\.(flv|wav)", fullmatch=True)
    | st.sampled_from(["01-01-03-01-01-01-01.mp4", "1001_DFA_ANG_XX.flv", "clips.csv", ".hidden.mp4", "x.mp4.part"]),
    max_size=12,
    unique_by=str.casefold,
)


@pytest.mark.parametrize("examples", _efforts(quick=30))
@pytest.mark.parametrize("corpus", ["ravdess", "crema-d", "folder"])
def test_any_file_names_give_clips_or_one_error(
    corpus: str, examples: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("names")
    inside = {"ravdess": root / "Actor_01", "crema-d": root / "VideoFlash", "folder": root}[corpus]

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(NAMES, st.text(max_size=200))
    def tried(names: list[str], table: str) -> None:
        shutil.rmtree(root)
        inside.mkdir(parents=True)
        for name in names:
            if name not in (".", "..") and len(name.encode()) < 250:
                (inside / name).write_bytes(b"\x00\x00\x00\x18ftypmp42")
        if corpus == "folder":
            (root / "clips.csv").write_text(f"clip,speaker,emotion\n{table}", "utf-8", errors="replace")
        try:
            scan = scan_corpus(corpus, root)
        except CorpusError as error:
            assert str(error).isprintable()
        else:
            assert all(schema.NAME.fullmatch(source.clip.clip_id) for source in scan.sources)

    tried()


#: What a header says about edits, geometry, times and channels: name -> number of bytes behind it.
HEADERS = {
    b"elst": 60, b"tkhd": 92, b"stsd": 200, b"pasp": 12, b"mvhd": 100, b"mdhd": 24, b"stts": 24, b"ctts": 40,
    b"chan": 20, b"strh": 56, b"strf": 40, b"avih": 56, b"fmt ": 20, b"RIFF": 8, b"data": 8, b"LIST": 8,
}  # fmt: skip
NUMBERS = (0, 1, 2, 7, 8, 9, 16, 63, 64, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A second of recording: losslessly cut, with eight channels, in AVI, MKV and FLV."""
    folder = tmp_path_factory.mktemp("recordings")
    picture = media_factory.steady(media_factory.stamps(60), "mp4")
    sound = media_factory.mono(media_factory.tone(440, 2.0, 44_100), rate_hz=44_100, codec="aac", bit_rate=128_000)
    whole = media_factory.write(folder / "whole.mp4", picture, sound)
    eight = "|".join(f"{name}=c0" for name in ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"))
    settings = {
        "cut.mp4": ("-c", "copy"),
        "eight.mov": ("-c:v", "copy", "-af", f"pan=7.1|{eight}", "-c:a", "pcm_s16le"),
        "other.avi": ("-c:v", "mpeg4", "-c:a", "pcm_s16le"),
        "other.mkv": ("-c", "copy"),
        "other.flv": ("-c:v", "flv", "-c:a", "libmp3lame"),
    }
    for name, codecs in settings.items():
        start = ("-ss", "0.7") if name == "cut.mp4" else ()
        command = [ffmpeg.program(), "-v", "error", *start, "-i", whole, "-t", "1", *codecs, folder / name]
        subprocess.run(command, check=True)
    return [folder / name for name in settings]


@pytest.mark.parametrize("examples", _efforts())
@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_a_recording_with_a_damaged_header_is_decoded_or_dropped(
    decoder: str, examples: int, recordings: list[Path], tmp_path: Path
) -> None:
    counts: Counter[str] = Counter()

    def attempt(source: random.Random) -> None:
        original = source.choice(recordings)
        data = bytearray(original.read_bytes())
        places = [(data.find(name), size) for name, size in HEADERS.items() if name in data] or [(4, 600)]
        for _ in range(source.randint(1, 3)):
            start, length = source.choice(places)
            at, width, order = start - 4 + source.randrange(length + 4), source.choice((1, 2, 4)), source.choice("<>")
            data[at : at + width] = struct.pack(f"{order}I", source.choice(NUMBERS))[:width]
        path = tmp_path / f"damaged{original.suffix}"
        path.write_bytes(data)
        segment = source.choice((None, (0.2, 0.8), (1.2, 1.4)))
        try:
            clip = media.decode(media_factory.source(path, segment_seconds=segment), uniform, decoder)
        except media.MediaError as error:
            counts[error.reason] += 1
        else:
            counts["decoded"] += 1
            assert len(clip.video.frames) == schema.FRAMES and len(clip.sound.samples)

    _repeat(examples if decoder == "pyav" else examples // 10, attempt)
    assert counts["decoded"] and len(counts) > 2  # otherwise the test tests nothing


@pytest.mark.parametrize("examples", _efforts())
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_damaged_checkpoint_gives_weights_or_the_documented_error(kind: str, examples: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="checkpoints need torch")
    import safetensors.torch

    from train.models.videomae import Encoder, EncoderConfig
    from train.models.weights import WeightsError, load_weights

    config = EncoderConfig(width=384, depth=1, heads=6, mlp=8, patch=(2, 16, 16), input=(16, 224, 224))
    state = {name: tensor.contiguous() for name, tensor in Encoder(config).state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"model": state}, buffer)
    data = {"safetensors": safetensors.torch.save(state), "torch": buffer.getvalue()}[kind]
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pth")

    def keys(source: random.Random) -> bytes:
        """Change a key and the shape of its tensor."""
        changed = dict(state)
        name = source.choice(list(changed))
        tensor = changed.pop(name)
        changed[source.choice((name, f"encoder.{name}", name.replace("blocks.0", "blocks.9"), "", "x" * 300))] = (
            source.choice((tensor, tensor.flatten(), tensor[:0], tensor.half(), torch.zeros(())))
        ).contiguous()
        out = io.BytesIO()
        torch.save(changed, out)
        return safetensors.torch.save(changed) if kind == "safetensors" else out.getvalue()

    def ends(source: random.Random) -> bytes:
        """Damage the headers: near the beginning or the end of the file."""
        at = source.choice((slice(0, 3000), slice(len(data) - 3000, len(data))))
        return data[: at.start] + damaged(data[at], source) + data[at.stop :]

    def attempt(source: random.Random) -> None:
        path.write_bytes(source.choice((keys, ends))(source))
        try:
            load_weights(path)
        except WeightsError as error:
            assert str(error).isprintable()

    _repeat(examples // 5, attempt)
    path.write_bytes(data)
    assert load_weights(path).config.width == config.width


#: Pickles that run no code and would still take all memory, or for ever, to read.
HOSTILE_PICKLES = (
    b"\x80\x02}(K\x01q\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"K\x01u.",
    b"\x80\x02K\x01" + b"\x85" * 100_000 + b".",
    b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R.",
    b"\x80\x02c__builtin__\nbytearray\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R.",
)


@pytest.mark.parametrize("examples", _efforts())
def test_a_checkpoint_archive_of_any_build_gives_weights_or_the_documented_error(examples: int, tmp_path: Path) -> None:
    """Entries are compressed, renamed, repeated, exchanged and hidden behind other archives; each is read in time."""
    torch = pytest.importorskip("torch", reason="checkpoints need torch")
    from train.models.videomae import Encoder, EncoderConfig
    from train.models.weights import WeightsError, load_weights

    config = EncoderConfig(width=384, depth=1, heads=6, mlp=8, patch=(2, 16, 16), input=(16, 224, 224))
    buffer = io.BytesIO()
    torch.save({"model": Encoder(config).state_dict()}, buffer)
    with zipfile.ZipFile(buffer) as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    path, refused = tmp_path / "model.pth", 0

    def rebuilt(source: random.Random) -> bytes:
        content = dict(entries)
        if source.random() < 0.5:
            content[pickled] = source.choice((*HOSTILE_PICKLES, damaged(content[pickled], source)))
        if source.random() < 0.3:
            content[source.choice((pickled.upper(), "other/data.pkl", "x" * 300))] = content.pop(pickled)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.comment = source.choice((b"", b"", b"PK\x05\x06" + bytes(18)))
            for name, data in content.items():
                packed = source.random() < 0.1
                archive.writestr(name, data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
        before = source.choice((b"", b"", b"", source.choice(HOSTILE_PICKLES), buffer.getvalue()))
        return before + out.getvalue()

    def attempt(source: random.Random) -> None:
        nonlocal refused
        path.write_bytes(rebuilt(source))
        began = time.monotonic()
        try:
            load_weights(path)
        except WeightsError as error:
            refused += 1
            assert str(error).isprintable()
        assert time.monotonic() - began < 20

    _repeat(max(examples // 40, QUICK // 5), attempt)
    assert refused
