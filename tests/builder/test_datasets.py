"""Every corpus keeps one contract; then what is peculiar to each."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.datasets import DATASETS, CorpusError, checks, crema_d, iemocap, mead, ravdess, scan_corpus
from builder.datasets.base import Scan
from manifests import folds
from manifests.labels import LABEL_SCHEMES, label_schemes_for
from manifests.schema import FLAGS
from tests.factories import corpora

FACTS = Path(__file__).parents[3] / "shared" / "facts"
#: Raw emotions that a label scheme leaves out on purpose.
OUTSIDE = {"iemocap-4": {"fru", "sur", "fea", "dis", "oth", "xxx"}}

#: The demo corpus makes its own recordings and is tested where they are made.
each_corpus = pytest.mark.parametrize("name", sorted(DATASETS))
each_tree = pytest.mark.parametrize("name", sorted(corpora.TREES))
each_published = pytest.mark.parametrize("name", sorted(corpora.SPEAKERS))


@pytest.fixture
def tree(name: str, tmp_path: Path) -> Path:
    """Small folder of the corpus `name`, inside a folder that holds nothing else."""
    return corpora.TREES[name](tmp_path / "corpus")


def ids(scan: Scan) -> list[str]:
    return [source.clip.clip_id for source in scan.sources]


def emotions(scan: Scan) -> Counter[str]:
    return Counter(source.clip.emotion for source in scan.sources)


# The contract


def test_every_corpus_has_a_tree() -> None:
    assert set(DATASETS) - {"demo"} == set(corpora.TREES)


@each_corpus
def test_says_what_must_be_said(name: str) -> None:
    corpus = DATASETS[name]
    assert corpus.name == name
    assert corpus.title and corpus.about()["licence"] and corpus.citation
    assert name in ("folder", "demo") or corpus.homepage.startswith("https://")


@each_corpus
def test_label_schemes_are_its_own_and_map_every_raw_emotion(name: str) -> None:
    schemes = DATASETS[name].facts.label_schemes
    assert tuple(scheme.name for scheme in schemes) == label_schemes_for(name)
    for scheme in schemes:
        outside = {raw for raw in corpora.RAW_EMOTIONS[name] if scheme.class_index(raw) is None}
        assert outside == OUTSIDE.get(scheme.name, set())


@each_corpus
def test_fold_schemes_are_its_own(name: str) -> None:
    facts = DATASETS[name].facts
    assert (*facts.fold_schemes, *facts.generated_folds, folds.LOSO) == folds.fold_schemes_for(name)
    assert {*facts.generated_folds} <= {*folds.GENERATED}


@each_tree
def test_labels_are_raw_emotions_of_the_corpus_or_there_are_none(name: str, tree: Path) -> None:
    found = {source.clip.emotion for source in scan_corpus(name, tree).sources}
    assert found == {None} if name == "voxceleb2" else found <= corpora.RAW_EMOTIONS.get(name, {"joy", "fear"})


@each_published
def test_default_folds_test_every_speaker_once(name: str) -> None:
    scheme = folds.load_scheme(DATASETS[name].facts.fold_schemes[0])
    tested = Counter(speaker for fold in scheme.folds.values() for speaker in fold.test)
    assert tested == Counter(corpora.SPEAKERS[name])


@each_tree
def test_sources_are_sorted_unique_and_absolute(name: str, tree: Path) -> None:
    scan = scan_corpus(name, tree)
    keys = [(source.clip.speaker, source.clip.clip_id) for source in scan.sources]
    assert keys == sorted(keys)
    assert len({clip_id.lower() for clip_id in ids(scan)}) == len(keys) > 3
    assert len({speaker for speaker, _ in keys}) >= 3
    for source in scan.sources:
        assert source.video.is_absolute() and source.video.is_file() and source.video.is_relative_to(tree)
        assert source.sound is None or source.sound.is_file()
        assert set(source.known_flags) <= set(FLAGS)


@each_tree
def test_a_relative_folder_gives_the_same(name: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scan_corpus(name, tree)
    monkeypatch.chdir(tree.parent)
    assert scan_corpus(name, Path(tree.name)) == expected


@each_tree
def test_listing_order_does_not_matter(name: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, walk = scan_corpus(name, tree), os.walk

    def reversed_walk(*args: object, **options: object) -> Iterator[tuple[str, list[str], list[str]]]:
        for parent, folders, files in walk(*args, **options):  # type: ignore[call-overload]
            folders.sort(reverse=True)
            yield parent, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", reversed_walk)
    assert scan_corpus(name, tree) == expected


@each_tree
def test_hidden_files_are_skipped(name: str, tree: Path) -> None:
    expected = scan_corpus(name, tree)
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        corpora.put(path.with_name(f"._{path.name}"))
        corpora.put(path.parent / ".trash" / path.name)
    assert scan_corpus(name, tree) == expected


@pytest.mark.parametrize("name", sorted(corpora.TREES.keys() - {"folder"}))
def test_the_parent_folder_will_do(name: str, tree: Path) -> None:
    assert scan_corpus(name, tree.parent).sources == scan_corpus(name, tree).sources


@each_tree
def test_a_partial_corpus_is_scanned(name: str, tree: Path) -> None:
    before = scan_corpus(name, tree)
    gone = before.sources[0].video
    gone.unlink()
    after = scan_corpus(name, tree)
    kept = name == "folder"  # a table names its clips: one that is absent is dropped by the build, not forgotten
    assert set(after.sources) == {source for source in before.sources if kept or source.video != gone}
    listed = name not in ("mead", "voxceleb2")  # of these, any part is a corpus
    assert set(after.missing) - set(before.missing) == ({gone.relative_to(tree).as_posix()} if listed else set())


@each_tree
def test_recordings_that_are_all_absent_are_an_error(name: str, tree: Path) -> None:
    for source in scan_corpus(name, tree).sources:
        source.video.unlink(missing_ok=True)
    with pytest.raises(CorpusError, match=re.escape(str(tree))):
        scan_corpus(name, tree)


@each_tree
@pytest.mark.parametrize("pointers", ["all", "one"])
def test_lfs_pointers_are_refused(name: str, tree: Path, pointers: str) -> None:
    videos = {source.video for source in scan_corpus(name, tree).sources}
    for path in sorted(videos)[: None if pointers == "all" else 1]:
        path.write_bytes(corpora.LFS_POINTER)
    count = len(videos) if pointers == "all" else 1
    with pytest.raises(CorpusError, match=rf"git-lfs pointer.*\({count} of \d+ files.*run git lfs pull"):
        scan_corpus(name, tree)


@each_corpus
def test_an_unknown_option_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"{name}: unknown option 'colour'; valid are: "):
        scan_corpus(name, tmp_path, {"colour": "red"})


@each_corpus
def test_an_unknown_value_is_refused(name: str, tmp_path: Path) -> None:
    for option, allowed in DATASETS[name].options.items():
        if allowed:
            with pytest.raises(CorpusError, match=f"option {option} is 'x'; valid are: {', '.join(allowed)}"):
                scan_corpus(name, tmp_path, {option: "x"})


@each_tree
def test_an_empty_folder_says_what_was_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"{re.escape(str(tmp_path))}.*expected .*(mp4|flv|avi|columns)"):
        scan_corpus(name, tmp_path)


@each_corpus
def test_an_absent_or_empty_folder_says_how_to_have_the_corpus(name: str, tmp_path: Path) -> None:
    how = {
        "ravdess": "make corpus DATASET=ravdess downloads the corpus, DATA= sets its folder",
        "crema-d": "make corpus DATASET=crema-d downloads the corpus, DATA= sets its folder",
        "iemocap": "make corpus DATASET=iemocap explains how to obtain the corpus, DATA= sets its folder",
        "mead": "make corpus DATASET=mead explains how to obtain the corpus, DATA= sets its folder",
        "voxceleb2": "make corpus DATASET=voxceleb2 explains how to obtain the corpus, DATA= sets its folder",
    }.get(name, "set the corpus folder with DATA=")
    (tmp_path / "empty").mkdir()
    hollow = {"crema-d": "VideoFlash", "iemocap": "Session1", "mead": "M003/video", "voxceleb2": "dev/mp4"}
    (tmp_path / "hollow" / hollow.get(name, "any")).mkdir(parents=True)
    for folder, problem in (("nowhere", "no such folder"), ("empty", ""), ("hollow", "")):
        with pytest.raises(CorpusError, match=f"^{re.escape(str(tmp_path / folder))}.*{problem}.*; {how}$"):
            scan_corpus(name, tmp_path / folder)


def test_an_unknown_corpus_lists_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="unknown corpus 'savee'; valid are ravdess, crema-d, iemocap"):
        scan_corpus("savee", tmp_path)


# What is shared: folders that hold a corpus twice or may not be read


def test_a_parent_of_two_copies_is_refused(tmp_path: Path) -> None:
    corpora.crema_d(tmp_path / "a")
    corpora.crema_d(tmp_path / "b")
    with pytest.raises(CorpusError, match="contains the corpus twice, in a and b; choose one"):
        scan_corpus("crema-d", tmp_path)


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    corpora.ravdess(tmp_path / "disk", ["07"])
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/Actor_07").symlink_to(tmp_path / "disk/Actor_07", target_is_directory=True)
    assert len(scan_corpus("ravdess", tmp_path / "corpus").sources) == 60


@pytest.mark.timeout(60)
def test_links_that_lead_in_circles_are_followed_once(tmp_path: Path) -> None:
    root = corpora.TREES["folder"](tmp_path / "corpus")
    expected = scan_corpus("folder", root)
    (root / "deep").mkdir()
    for number in range(12):
        (root / "deep" / f"up{number}").symlink_to("..")
        (root / f"again{number}").symlink_to("deep")
    (root / "deep" / "unnamed.wav").write_bytes(b"RIFF")
    (root / "itself").symlink_to("itself")

    found = scan_corpus("folder", root)

    assert ids(found) == ids(expected)
    assert set(found.ignored) - set(expected.ignored) == {("deep/unnamed.wav", "not named in clips.csv")}


@pytest.mark.timeout(60)
@each_tree
def test_pipes_in_place_of_files_are_not_opened(name: str, tree: Path) -> None:
    whole = scan_corpus(name, tree)
    recording = whole.sources[0].video
    recording.unlink()
    os.mkfifo(recording)
    assert set(ids(scan_corpus(name, tree))) <= set(ids(whole))
    tables = [path for path in tree.rglob("*") if path.suffix in (".txt", ".csv")]
    for table in tables:
        table.unlink()
        os.mkfifo(table)
    if tables:
        with pytest.raises(CorpusError, match=r"(\.txt|clips\.csv): found no regular file; expected a text file$"):
            scan_corpus(name, tree)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, scandir = corpora.ravdess(tmp_path, ["01"]) / "Actor_01", os.scandir

    def guarded_scandir(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded_scandir)
    with pytest.raises(CorpusError, match=r"Actor_01: cannot be listed \(Permission denied\)"):
        scan_corpus("ravdess", tmp_path)


# RAVDESS

RAVDESS_INVENTORY = ravdess.inventory()


@pytest.fixture(scope="module")
def complete_ravdess(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    root = corpora.ravdess(tmp_path_factory.mktemp("ravdess"), corpora.SPEAKERS["ravdess"], Path.touch)
    return scan_corpus("ravdess", root)


def test_ravdess_has_the_published_counts(complete_ravdess: Scan) -> None:
    assert len(complete_ravdess.sources) == complete_ravdess.expected_clips == 1440
    expected = dict.fromkeys(corpora.RAW_EMOTIONS["ravdess"], 192) | {"neutral": 96}
    assert emotions(complete_ravdess) == expected
    assert set(Counter(source.clip.speaker for source in complete_ravdess.sources).values()) == {60}
    assert complete_ravdess.missing == complete_ravdess.ignored == ()


def test_ravdess_name_is_read_field_by_field(tmp_path: Path) -> None:
    corpora.put(tmp_path / "Actor_12/01-01-06-02-01-02-12.mp4")
    clip = scan_corpus("ravdess", tmp_path).sources[0].clip
    assert (clip.speaker, clip.emotion, clip.intensity) == ("12", "fearful", "strong")
    assert clip.sentence == "Kids are talking by the door"
    assert clip.clip_id == "01-01-06-02-01-02-12"


@given(st.tuples(*[st.sampled_from(["01", "02", "03", "08", "09", "24", "25", "1", "00"])] * 7))
def test_ravdess_inventory_is_the_grammar(codes: tuple[str, ...]) -> None:
    name = "-".join(codes)
    grammar = r"01-01-(01-01|0[2-8]-0[12])-0[12]-0[12]-(0[1-9]|1\d|2[0-4])"
    assert (name in RAVDESS_INVENTORY) == bool(re.fullmatch(grammar, name))


def test_ravdess_archives_unpacked_side_by_side(tmp_path: Path) -> None:
    for actor in ("03", "04"):
        corpora.ravdess(tmp_path / "RAVDESS" / f"Video_Speech_Actor_{actor}", [actor])
    assert len(scan_corpus("ravdess", tmp_path / "RAVDESS").sources) == 120
    assert len(scan_corpus("ravdess", tmp_path).sources) == 120


def test_ravdess_takes_speech_with_sound_only(tmp_path: Path) -> None:
    corpora.ravdess(tmp_path, ["01"])
    others = {
        "Actor_01/02-01-03-01-01-01-01.mp4": "picture only",
        "Actor_01/03-01-03-01-01-01-01.wav": "sound only",
        "Actor_01/01-02-03-01-01-01-01.mp4": "song, not speech",
        "Actor_01/01-01-01-02-01-01-01.mp4": "not the name of a RAVDESS speech video",
        "Actor_01/01-01-03-01-01-01-01.avi": "not the name of a RAVDESS speech video",
        "Actor_01/holiday.mp4": "not the name of a RAVDESS speech video",
    }
    for name in others:
        corpora.put(tmp_path / name)
    corpora.put(tmp_path / "Actor_01/notes.txt")
    scan = scan_corpus("ravdess", tmp_path)
    assert dict(scan.ignored) == others
    assert len(scan.sources) == 60


def test_ravdess_clip_in_two_places_is_refused(tmp_path: Path) -> None:
    corpora.ravdess(tmp_path, ["01"])
    name = "01-01-01-01-01-01-01.mp4"
    corpora.put(tmp_path / "copy" / name)
    with pytest.raises(CorpusError, match=f"Actor_01/{name} and .*copy/{name}: the same clip id"):
        scan_corpus("ravdess", tmp_path)


# CREMA-D


@pytest.fixture(scope="module")
def complete_crema_d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crema-d")
    return corpora.crema_d(root, crema_d.inventory(), sounds=False, write=Path.touch)


def test_crema_d_has_the_published_counts(complete_crema_d: Path) -> None:
    scan = scan_corpus("crema-d", complete_crema_d)
    assert len(scan.sources) == scan.expected_clips == 7442
    assert emotions(scan) == dict.fromkeys(["ANG", "DIS", "FEA", "HAP", "SAD"], 1271) | {"NEU": 1087}
    assert tuple(sorted({source.clip.speaker for source in scan.sources})) == corpora.SPEAKERS["crema-d"]
    assert Counter(source.clip.intensity for source in scan.sources) == {"XX": 6077, "LO": 455, "MD": 455, "HI": 455}
    assert scan.missing == scan.ignored == ()


def test_crema_d_folds_have_the_published_clips(complete_crema_d: Path) -> None:
    scan = scan_corpus("crema-d", complete_crema_d)
    clips = Counter(source.clip.speaker for source in scan.sources)
    found = [sum(clips[s] for s in fold.test) for fold in folds.load_scheme("crema-d-5fold").folds.values()]
    assert found == [1463, 1470, 1476, 1476, 1557]


def test_crema_d_votes_leave_ties_out(complete_crema_d: Path) -> None:
    acted = scan_corpus("crema-d", complete_crema_d, {"labels": "acted"})
    voted = scan_corpus("crema-d", complete_crema_d, {"labels": "voted"})
    assert len(voted.sources) == voted.expected_clips == 7022
    assert emotions(voted) == {"NEU": 1972, "HAP": 1219, "DIS": 1139, "FEA": 1084, "ANG": 1019, "SAD": 589}
    label = {source.clip.clip_id: source.clip.emotion for source in acted.sources}
    assert sum(label[source.clip.clip_id] == source.clip.emotion for source in voted.sources) == 5374
    assert len(voted.ignored) == 7442 - 7022
    assert all(re.fullmatch(r"the crowd's vote is tied: [ADFHNS](:[ADFHNS])+", why) for _, why in voted.ignored)


def test_crema_d_inventory_follows_the_grammar() -> None:
    grammar = re.compile(r"10\d\d_(DFA|IEO|IOM|ITH|ITS|IWL|IWW|MTI|TAI|TIE|TSI|WSI)_[A-Z]{3}_(XX|LO|MD|HI)")
    for clip, entry in crema_d.inventory().items():
        assert grammar.fullmatch(clip) and entry.acted in corpora.RAW_EMOTIONS["crema-d"]
        assert re.fullmatch(r"[0-9a-f]{64}", entry.flv_sha256) and re.fullmatch(r"[0-9a-f]{64}", entry.wav_sha256)
        assert entry.flv_bytes > 0 and entry.wav_bytes > 0


def test_crema_d_inventory_is_the_published_one() -> None:
    if not FACTS.is_dir():
        pytest.skip(f"needs the published file list in {FACTS}, which is not part of this repository")
    with (FACTS / "crema_d_files.csv").open() as file:
        published = {row["name"]: (row["sha256"], int(row["size"])) for row in csv.DictReader(file)}
    entries = crema_d.inventory().values()
    flvs = {f"VideoFlash/{entry.clip}.flv": (entry.flv_sha256, entry.flv_bytes) for entry in entries}
    wavs = {f"AudioWAV/{entry.clip}.wav": (entry.wav_sha256, entry.wav_bytes) for entry in entries}
    assert flvs | wavs == published


def test_crema_d_shared_sound_is_what_the_hashes_say() -> None:
    sounds = Counter(entry.wav_sha256 for entry in crema_d.inventory().values())
    shared = {entry.clip for entry in crema_d.inventory().values() if sounds[entry.wav_sha256] > 1}
    assert {clip for clip, flags in crema_d.defects().flags.items() if "shared_sound" in flags} == shared


def test_crema_d_defects_name_clips_and_flags_that_exist() -> None:
    known, defects = crema_d.inventory(), crema_d.defects()
    named = {*defects.unusable, *defects.flags, *defects.older_wav_names.values()}
    assert named <= known.keys()
    assert {flag for flags in defects.flags.values() for flag in flags} <= set(FLAGS)


def test_crema_d_unusable_clips_are_marked(tmp_path: Path) -> None:
    clips = ("1064_IEO_DIS_MD", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1006_TIE_HAP_XX")
    sources = scan_corpus("crema-d", corpora.crema_d(tmp_path, clips)).sources
    assert {s.clip.clip_id for s in sources if s.known_defect} == set(clips[:2])
    assert {s.clip.clip_id: s.known_flags for s in sources if s.known_flags} == {
        "1076_MTI_NEU_XX": ("sound_length_mismatch",),
        "1006_TIE_HAP_XX": ("shared_sound",),
    }


def test_crema_d_sound_is_optional(tmp_path: Path) -> None:
    corpora.crema_d(tmp_path, ["1001_DFA_ANG_XX"], sounds=False)
    without = scan_corpus("crema-d", tmp_path)
    assert without.sources[0].sound is None
    assert len(without.missing) == 7441 and all(name.startswith("VideoFlash/") for name in without.missing)
    corpora.put(tmp_path / "AudioWAV/1001_DFA_ANG_XX.wav")
    given_one = scan_corpus("crema-d", tmp_path)
    assert given_one.sources[0].sound == tmp_path / "AudioWAV/1001_DFA_ANG_XX.wav"
    assert len(given_one.missing) == 2 * 7441


def test_crema_d_older_wav_name(tmp_path: Path) -> None:
    corpora.crema_d(tmp_path, ["1040_ITH_SAD_XX"], sounds=False)
    older = corpora.put(tmp_path / "AudioWAV/1040_ITH_SAD_X.wav")
    scan = scan_corpus("crema-d", tmp_path)
    assert scan.sources[0].sound == older
    assert "AudioWAV/1040_ITH_SAD_XX.wav" not in scan.missing


def test_crema_d_ignores_what_it_does_not_know(tmp_path: Path) -> None:
    corpora.crema_d(tmp_path)
    strangers = ["VideoFlash/1092_DFA_ANG_XX.flv", "VideoFlash/1001_DFA_ANG_XX.mp4", "VideoFlash/holiday.flv"]
    for name in strangers:
        corpora.put(tmp_path / name)
    scan = scan_corpus("crema-d", tmp_path)
    assert dict(scan.ignored) == dict.fromkeys(strangers, "not in the inventory of CREMA-D")
    assert len(scan.sources) == len(corpora.CREMA_D_CLIPS)


def test_crema_d_suffixes_equal_but_for_case_are_refused(tmp_path: Path) -> None:
    corpora.crema_d(tmp_path)
    corpora.put(tmp_path / "VideoFlash/1001_DFA_ANG_XX.FLV")
    with pytest.raises(CorpusError, match=r"1001_DFA_ANG_XX.FLV and .*1001_DFA_ANG_XX.flv: the same clip id"):
        scan_corpus("crema-d", tmp_path)


# IEMOCAP

#: Published turns of the four classes: for each session, for each class.
SESSION_TURNS = (1085, 1023, 1151, 1031, 1241)
CLASS_TURNS = {"ang": 1103, "hap": 595, "exc": 1041, "sad": 1084, "neu": 1708}
TURN = "Ses01F_impro01_F000"


def write_iemocap_of_full_size(root: Path) -> Path:
    """Five sessions whose turns a session and turns a class are the published ones."""
    pool = iter([emotion for emotion, turns in CLASS_TURNS.items() for _ in range(turns)])
    for session, turns in enumerate(SESSION_TURNS, 1):
        labels = [(float(i), i + 1.0, f"Ses0{session}{'FM'[i % 2]}", next(pool)) for i in range(turns)]
        labels += [(5000.0 + i, 5001.0 + i, f"Ses0{session}F", emotion) for i, emotion in enumerate(("xxx", "fru"))]
        for part, wearer in enumerate("FM"):
            dialog = f"Ses0{session}{wearer}_impro0{part}"
            half = labels[part::2]
            named = [(a, b, f"{dialog}_{who[5]}{i:03d}", emotion) for i, (a, b, who, emotion) in enumerate(half)]
            corpora.iemocap_dialog(root, dialog, named, sounds=False)
    return root


def test_iemocap_has_the_published_counts(tmp_path: Path) -> None:
    scan = scan_corpus("iemocap", write_iemocap_of_full_size(tmp_path))
    assert len(scan.sources) == scan.expected_clips == 5531
    assert emotions(scan) == CLASS_TURNS
    index = LABEL_SCHEMES["iemocap-4"].class_index
    assert Counter(index(raw) for raw in emotions(scan).elements()) == {0: 1103, 1: 1636, 2: 1084, 3: 1708}
    sessions = Counter(source.clip.speaker[:5] for source in scan.sources)
    assert tuple(sessions[f"Ses0{n}"] for n in range(1, 6)) == SESSION_TURNS
    assert tuple(sorted({source.clip.speaker for source in scan.sources})) == corpora.SPEAKERS["iemocap"]
    assert Counter(why for _, why in scan.ignored) == {"labelled xxx": 5, "labelled fru": 5}
    assert scan.missing == tuple(f"Session{number}/sentences/wav" for number in range(1, 6))
    assert scan_corpus("iemocap", tmp_path, {"sound": "avi"}).missing == ()


def test_iemocap_speaker_is_the_talker_not_the_wearer_of_the_markers(tmp_path: Path) -> None:
    corpora.iemocap_dialog(tmp_path, "Ses03M_script01_1b", [(1.5, 4.25, "Ses03M_script01_1b_F007", "exc")])
    source = scan_corpus("iemocap", tmp_path).sources[0]
    assert (source.clip.speaker, source.clip.emotion, source.clip.sentence) == ("Ses03F", "exc", "Ses03M_script01_1b")
    assert (source.region, source.segment_seconds) == ("right", (1.5, 4.25))
    assert source.video == tmp_path / "Session3/dialog/avi/DivX/Ses03M_script01_1b.avi"
    assert source.sound == tmp_path / "Session3/sentences/wav/Ses03M_script01_1b/Ses03M_script01_1b_F007.wav"


@pytest.mark.parametrize(
    ("turn", "side"),
    [
        ("Ses01F_impro01_F000", "left"),
        ("Ses01M_impro01_M000", "left"),
        ("Ses01F_impro01_M000", "right"),
        ("Ses01M_script02_2_F012", "right"),
    ],
)
def test_iemocap_wearer_of_the_markers_is_on_the_left(turn: str, side: str) -> None:
    assert iemocap.region(turn) == side


def test_iemocap_all_takes_every_label_but_other_and_none(tmp_path: Path) -> None:
    corpora.iemocap(tmp_path)
    scan = scan_corpus("iemocap", tmp_path, {"emotions": "all"})
    assert set(emotions(scan)) == corpora.RAW_EMOTIONS["iemocap"] - {"oth", "xxx"}
    assert {why for _, why in scan.ignored} == {"labelled oth", "labelled xxx"}
    assert scan.expected_clips is None


def test_iemocap_missing_sessions_and_recordings_are_listed(tmp_path: Path) -> None:
    corpora.iemocap(tmp_path, sessions=(1, 2))
    (tmp_path / "Session2/dialog/avi/DivX/Ses02F_impro01.avi").unlink()
    (tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").unlink()
    scan = scan_corpus("iemocap", tmp_path)
    assert scan.missing == (
        "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
        "Session2/dialog/avi/DivX/Ses02F_impro01.avi",
        *(f"Session{number}/dialog/EmoEvaluation" for number in (3, 4, 5)),
    )
    assert not any("Ses02F_impro01" in clip_id for clip_id in ids(scan))


def test_iemocap_takes_a_turns_sound_from_its_own_file(tmp_path: Path) -> None:
    corpora.iemocap(tmp_path)
    own, mixed = (scan_corpus("iemocap", tmp_path, options).sources for options in ({}, {"sound": "avi"}))
    assert all(source.sound_first and source.sound for source in own)
    assert not any(source.sound_first for source in mixed)
    assert [source.clip for source in own] == [source.clip for source in mixed]


def test_iemocap_context_ends_where_the_other_actor_talks(tmp_path: Path) -> None:
    """Also in a turn without an agreed emotion; the talker's own turns are no limit."""
    turns = [
        (1.0, 2.0, f"{TURN[:-4]}M000", "xxx"),
        (2.1, 4.1, TURN, "ang"),
        (4.15, 5.0, f"{TURN[:-4]}F001", "neu"),
        (6.0, 7.0, f"{TURN[:-4]}M001", "fru"),
    ]
    corpora.iemocap_dialog(tmp_path, TURN[:-5], turns)
    first, second = scan_corpus("iemocap", tmp_path).sources
    assert first.context_seconds == pytest.approx((2.0, 4.1 + 2 * 2.0 / 15 + 0.1))
    assert second.context_seconds == pytest.approx((4.15 - 0.85 * 2 / 15 - 0.1, 5.0 + 0.85 * 2 / 15 + 0.1))


def test_iemocap_turn_labelled_twice_is_refused(tmp_path: Path) -> None:
    corpora.iemocap_dialog(tmp_path, TURN[:-5], [(1.0, 2.0, TURN, "ang"), (3.0, 4.0, TURN, "sad")])
    with pytest.raises(CorpusError, match=f"the same clip id {TURN}"):
        scan_corpus("iemocap", tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        f"[1.0 - 2.0]\t{TURN}",
        f"[1.0 - ]\t{TURN}\tang\t[1, 1, 1]",
        f"[nan - 2.0]\t{TURN}\tang\t[1, 1, 1]",
        f"[2.0 - 1.0]\t{TURN}\tang\t[1, 1, 1]",
        f"[1.0 - {'9' * 400}]\t{TURN}\tang\t[1, 1, 1]",
        f"[1.0 - 2.0]\t{TURN}\tfun\t[1, 1, 1]",
        f"[1.0 - 2.0]\t{TURN}\tANG\t[1, 1, 1]",
        "[1.0 - 2.0]\tSes06F_impro01_F000\tang\t[1, 1, 1]",
        "[1.0 - 2.0]\tSes01F_impro01/../../x_F000\tang\t[1, 1, 1]",
        "[1.0 - 2.0]\tSes01F_impro01_X000\tang\t[1, 1, 1]",
    ],
)
def test_iemocap_malformed_label_names_file_and_line(line: str) -> None:
    with pytest.raises(CorpusError, match=r"^dialog\.txt:3: "):
        list(iemocap.parse_labels(f"% header\n\n{line}\n", "dialog.txt"))


@given(
    st.integers(0, 50_000_000),
    st.integers(1, 600_000),
    st.builds(
        "Ses0{}{}_{}_{}{:03d}".format,
        st.integers(1, 5),
        st.sampled_from("FM"),
        st.sampled_from(["impro01", "impro05a", "script01_1", "script02_2b"]),
        st.sampled_from("FM"),
        st.integers(0, 999),
    ),
    st.sampled_from(sorted(corpora.RAW_EMOTIONS["iemocap"])),
    st.sampled_from(["\n", "\r\n"]),
)
def test_iemocap_label_lines_are_read_back(begin: int, length: int, turn: str, emotion: str, newline: str) -> None:
    start, end = begin / 10_000, (begin + length) / 10_000
    text = corpora.iemocap_label_file([(start, end, turn, emotion)]).replace("\n", newline)
    assert list(iemocap.parse_labels(text, "x")) == [
        iemocap.Turn(name=turn, segment_seconds=(start, end), emotion=emotion)
    ]


@given(st.text() | st.text(alphabet="[]-. 0123456789\n\tSes01FM_improang").map(lambda text: f"[{text}"))
def test_iemocap_hostile_text_gives_turns_or_one_error(text: str) -> None:
    try:
        turns = list(iemocap.parse_labels(text, "x"))
    except CorpusError as error:
        assert "\n" not in str(error)
    else:
        assert all(turn.emotion in iemocap.RAW_EMOTIONS for turn in turns)


# MEAD


def test_mead_name_is_read_field_by_field(tmp_path: Path) -> None:
    corpora.mead(tmp_path, ["W009"])
    source = next(s for s in scan_corpus("mead", tmp_path).sources if s.clip.clip_id == "W009_front_fear_3_001")
    assert (source.clip.speaker, source.clip.emotion, source.clip.intensity) == ("W009", "fear", "level_3")
    assert source.video == tmp_path / "W009/video/front/fear/level_3/001.mp4"
    assert source.sound == tmp_path / "W009/audio/fear/level_3/001.m4a"
    assert not source.sound_first  # only where the recording has none, as M041_sad_level_2_020


def test_mead_sound_beside_the_recordings_is_optional(tmp_path: Path) -> None:
    corpora.mead(tmp_path, ["M003"])
    (tmp_path / "M003/audio/sad/level_2/001.m4a").unlink()
    assert [s.clip.clip_id for s in scan_corpus("mead", tmp_path).sources if s.sound is None] == [
        "M003_front_sad_2_001"
    ]


@pytest.mark.parametrize(
    ("views", "clips"),
    [(None, 22), ("front", 22), ("left_30", 22), ("left_30,front", 44), ("front top", 22), ("all", 44)],
)
def test_mead_views_are_chosen(tmp_path: Path, views: str | None, clips: int) -> None:
    corpora.mead(tmp_path, ["M003"])
    scan = scan_corpus("mead", tmp_path, {"views": views} if views else {})
    assert len(scan.sources) == clips
    other = {22: "front" if views == "left_30" else "left_30", 44: ""}[clips]
    assert scan.ignored == ((f"M003/video/{other}", "a view that OPTION=views= does not choose"),) * bool(other)


@pytest.mark.parametrize("views", ["", "side", "front,side", "all,front"])
def test_mead_views_that_do_not_exist_are_refused(tmp_path: Path, views: str) -> None:
    with pytest.raises(
        CorpusError, match=rf"^mead: option views is '{views}'; valid are: all, or some of front, .*down$"
    ):
        scan_corpus("mead", tmp_path, {"views": views})


def test_mead_ignores_what_it_does_not_know(tmp_path: Path) -> None:
    corpora.mead(tmp_path, ["M003"])
    strangers = ["front/sad/level_4/001.mp4", "front/joy/level_1/001.mp4", "front/sad/1.mp4"]
    for name in (*strangers, "back/sad/level_1/001.mp4", "front/sad/level_1/notes.txt"):
        corpora.put(tmp_path / "M003/video" / name)
    (tmp_path / "M1/video").mkdir(parents=True)
    scan = scan_corpus("mead", tmp_path, {"views": "all"})
    assert {name for name, _ in scan.ignored} == {f"M003/video/{name}" for name in (*strangers, "back")}
    assert len(scan.sources) == 44


def test_mead_folds_have_men_and_women_on_every_side() -> None:
    actors = [f"M{number:03d}" for number in range(3, 31)] + [f"W{number:03d}" for number in range(9, 29)]
    assert folds.fold_schemes_for("mead", actors) == ("speakers-5fold", "loso")
    scheme = folds.fold_scheme("mead", "speakers-5fold", actors)
    assert sorted(actor for fold in scheme.folds.values() for actor in fold.test) == sorted(actors)
    for fold in scheme.folds.values():
        for side, most in ((fold.test, 5.6), (fold.validation, 4.5), (fold.train, 18)):
            men, women = (sum(actor[0] == letter for actor in side) for letter in "MW")
            assert abs(men - women * 28 / 20) < 2
            assert men + women <= 2 * most


def test_mead_emotions_have_the_names_of_other_corpora() -> None:
    scheme = LABEL_SCHEMES["mead-8"]
    assert len(scheme.classes) == 8 and scheme.mapping.keys() == {*mead.EMOTIONS}
    assert {*LABEL_SCHEMES["ravdess-7"].classes} == {*scheme.classes} - {"contempt"}


# VoxCeleb2


def test_voxceleb2_clip_ids_are_paths(tmp_path: Path) -> None:
    scan = scan_corpus("voxceleb2", corpora.voxceleb2(tmp_path))
    assert len(scan.sources) == 24
    source = scan.sources[0]
    assert (source.clip.clip_id, source.clip.speaker) == ("id00001--0aB_cD1eF2-00001", "id00001")
    assert source.video == tmp_path / "dev/mp4/id00001/-0aB_cD1eF2/00001.mp4"


def test_voxceleb2_may_be_any_part(tmp_path: Path) -> None:
    corpora.voxceleb2(tmp_path / "whole")
    for part, clips in (("dev", 12), ("test", 12)):
        alone = tmp_path / f"only {part}"
        alone.mkdir()
        (tmp_path / "whole" / part).rename(alone / part)
        assert len(scan_corpus("voxceleb2", alone).sources) == clips
        assert len(scan_corpus("voxceleb2", alone / part).sources) == clips  # as the archive of the test part unpacks


def test_voxceleb2_says_what_a_video_is_called(tmp_path: Path) -> None:
    corpora.put(tmp_path / "dev/mp4/id00001/short/00001.mp4")
    with pytest.raises(CorpusError, match=r"expected dev/mp4/idNNNNN/VIDEO/NNNNN.mp4 .*, VIDEO of 11 characters"):
        scan_corpus("voxceleb2", tmp_path)


def test_voxceleb2_ignores_what_it_does_not_know(tmp_path: Path) -> None:
    corpora.voxceleb2(tmp_path)
    strangers = ["id1/zYx-wV_U9tS/00001.mp4", "id00001/short/00001.mp4", "id00001/zYx-wV_U9tS/1.mp4", "00001.mp4"]
    for name in (*strangers, "id00001/zYx-wV_U9tS/00001.txt"):
        corpora.put(tmp_path / "dev/mp4" / name)
    corpora.put(tmp_path / "dev/aac/id00001/zYx-wV_U9tS/00001.m4a")
    scan = scan_corpus("voxceleb2", tmp_path)
    assert {name for name, _ in scan.ignored} == {f"dev/mp4/{name}" for name in strangers}
    assert len(scan.sources) == 24


def test_voxceleb2_split_is_the_published_one() -> None:
    split = folds.load_scheme("voxceleb2-dev-test").folds["1"]
    assert len({*split.train, *split.validation}) == 5994
    assert len(split.test) == 120  # two of which have no recording


def test_of_many_recordings_some_are_checked_for_pointers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora.voxceleb2(tmp_path)
    monkeypatch.setattr(checks, "_MAX_CHECKED", 10)
    checked: list[Path] = []
    monkeypatch.setattr(checks, "is_pointer", lambda path: bool(checked.append(path)))
    scan = scan_corpus("voxceleb2", tmp_path)
    assert {*checked} == {source.video for source in scan.sources[::3]}


# Any folder


def write_table(root: Path, *rows: str, header: str = "clip,speaker,emotion", name: str = "clips.csv") -> None:
    (root / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_folder_reads_every_column(tmp_path: Path) -> None:
    for name in ("day one/talk.mkv", "wav/talk.wav"):
        corpora.put(tmp_path / name)
    header = "emotion,clip,speaker,intensity,sentence,sound,start,end"
    whole = 'great joy,day one/talk.mkv,p-1,high,"Well, hello",wav/talk.wav,,'
    write_table(tmp_path, whole, "joy,day one/talk.mkv,p-1,,,,1.5,4", header=header)
    source, part = scan_corpus("folder", tmp_path).sources
    assert (source.clip.clip_id, part.clip.clip_id) == ("day_one_talk", "day_one_talk_1500")
    assert (source.clip.speaker, source.clip.emotion, source.clip.intensity) == ("p-1", "great joy", "high")
    assert source.clip.sentence == "Well, hello"
    assert (source.video, source.sound) == (tmp_path / "day one/talk.mkv", tmp_path / "wav/talk.wav")
    assert source.sound_first
    assert (source.segment_seconds, part.segment_seconds) == (None, (1.5, 4.0))


def test_sound_beside_a_part_of_a_recording_is_refused(tmp_path: Path) -> None:
    """Whether it begins with the part or with the recording, nobody can tell."""
    write_table(tmp_path, "joy,a.mp4,x,a.wav,1,2", header="emotion,clip,speaker,sound,start,end")
    with pytest.raises(CorpusError, match=r"clips\.csv:2: found both sound and start, end"):
        scan_corpus("folder", tmp_path)


def test_folder_table_with_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    corpora.put(tmp_path / "é.mp4")
    (tmp_path / "clips.csv").write_bytes("\ufeffclip,speaker,emotion\r\né.mp4,a,joy\r\n".encode())
    source = scan_corpus("folder", tmp_path).sources[0]
    assert (source.clip.clip_id, source.clip.intensity, source.segment_seconds) == ("_", None, None)


def test_folder_table_by_another_name(tmp_path: Path) -> None:
    corpora.put(tmp_path / "a.mp4")
    write_table(tmp_path, "a.mp4,x,joy", name="part1.csv")
    assert ids(scan_corpus("folder", tmp_path, {"csv": "part1.csv"})) == ["a"]
    with pytest.raises(CorpusError, match=r"expected a file below the folder"):
        scan_corpus("folder", tmp_path, {"csv": "../part1.csv"})


def test_folder_holds_many_clips_of_one_recording(tmp_path: Path) -> None:
    corpora.put(tmp_path / "talk.mp4")
    write_table(tmp_path, "talk.mp4,a,joy,0,1.25", "talk.mp4,b,fear,1.25,3", header="clip,speaker,emotion,start,end")
    assert ids(scan_corpus("folder", tmp_path)) == ["talk_0", "talk_1250"]


def test_folder_lists_absent_and_unnamed_files(tmp_path: Path) -> None:
    for name in ("a.mp4", "extra/b.mov", "extra/notes.txt"):
        corpora.put(tmp_path / name)
    write_table(tmp_path, "a.mp4,x,joy,a.wav", f"gone.mp4,x,joy,{'n' * 300}.wav", header="clip,speaker,emotion,sound")
    scan = scan_corpus("folder", tmp_path)
    assert [(source.clip.clip_id, source.sound) for source in scan.sources] == [("a", None), ("gone", None)]
    assert scan.missing == ("a.wav", "gone.mp4", f"{'n' * 300}.wav")
    assert scan.ignored == (("extra/b.mov", "not named in clips.csv"),)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "clips.csv:1: found columns none"),
        (
            "clip,emotion\na.mp4,x\n",
            "clips.csv:1: found columns clip, emotion, without speaker; expected clip, speaker and any of emotion",
        ),
        ("clip,speaker,emotoin,mood\na.mp4,x,joy,2\n", "clips.csv:1: found column emotoin, which looks like emotion"),
        ("clip,speaker,emotion,clip\na.mp4,x,joy,2\n", "clips.csv:1: found columns"),
        ("clip,speaker,emotion\n", "clips.csv: found no rows"),
        ("clip,speaker,emotion\n\na.mp4,x\n", "clips.csv:3: found 2 cells, expected 3"),
        ("clip,speaker,emotion\na.mp4,x,joy,4\n", "clips.csv:2: found 4 cells, expected 3"),
        ("clip,speaker,emotion\na.mp4, ,joy\n", "clips.csv:2: found no speaker"),
        (f"clip,speaker,emotion\na.mp4,{'x' * 65},joy\n", "clips.csv:2: speaker x+... has 65 characters"),
        (f"clip,speaker,emotion\n{'a' * 201}.mp4,x,joy\n", "clips.csv:2: clip id a+... has 201 characters"),
        ("clip,speaker,emotion\n/etc/a.mp4,x,joy\n", "clips.csv:2: found path '/etc/a.mp4'"),
        ("clip,speaker,emotion\nb/../a.mp4,x,joy\n", "clips.csv:2: found path"),
        ("clip,speaker,emotion\n/,x,joy\n", "clips.csv:2: found path '/'"),
        ("clip,speaker,emotion,sound\na.mp4,x,joy,../a.wav\n", "clips.csv:2: found path '../a.wav'"),
        ("clip,speaker,emotion,start,end\na.mp4,x,joy,1,\n", "clips.csv:2: found start '1' and end ''"),
        ("clip,speaker,emotion,start,end\na.mp4,x,joy,2,1\n", "expected seconds, 0 <= start < end"),
        ("clip,speaker,emotion,start,end\na.mp4,x,joy,0,inf\n", "expected seconds, 0 <= start < end"),
        ("clip,speaker,emotion,start,end\na.mp4,x,joy,0,1_0\n", "found start '0' and end '1_0'; expected seconds"),
        ("clip,speaker,emotion,start,end\na.mp4,x,joy,0,٣\n", "found start '0' and end '٣'; expected seconds"),
        (f"clip,speaker,emotion,start,end\na.mp4,x,joy,0,{'9' * 9999}\n", "and end '9{40}'; expected seconds"),
        ('clip,speaker,emotion\n"a.mp4,x,joy\n', "clips.csv:2: not a table"),
        ("clip,speaker,emotion\na.mp4,x,joy\nA.mov,x,joy\n", r"clips.csv:2 and .*clips.csv:3: the same clip id A"),
        ("clip,speaker,emotion\na b.mp4,x,joy\na b.mp4,x,joy\n", r"clips.csv:2 and .*:3: the same clip id a_b-\w{8}"),
        ("clip,speaker,emotion\na.mp4,Ann,joy\nb.mp4,ann,joy\n", "speakers Ann and ann differ only in case"),
        (
            "clip,speaker,emotion\ngone.mp4,x,joy\n",
            "found no clip to build; 1 file missing, the first is gone.mp4; set the corpus folder with DATA=",
        ),
    ],
)
def test_folder_table_that_cannot_be_used(tmp_path: Path, table: str, message: str) -> None:
    for name in ("a.mp4", "b.mp4", "A.mov"):
        corpora.put(tmp_path / name)
    (tmp_path / "clips.csv").write_text(table, encoding="utf-8")
    with pytest.raises(CorpusError, match=message) as raised:
        scan_corpus("folder", tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.timeout(60)
def test_folder_table_larger_than_any_table_is_not_read(tmp_path: Path) -> None:
    root = corpora.TREES["folder"](tmp_path / "corpus")
    os.truncate(root / "clips.csv", 6 << 30)  # sparse
    with pytest.raises(CorpusError, match=r"clips\.csv: found 6442450944 bytes, expected at most 536870912 of text$"):
        scan_corpus("folder", root)


@pytest.mark.parametrize("emotion", ["ha\x1b[31mppy", "ha\x00ppy", "ha\u202eppy", "\ufeffhappy"])
def test_folder_emotion_that_cannot_be_printed_is_refused(tmp_path: Path, emotion: str) -> None:
    """It would be the name of a class, which training refuses."""
    (tmp_path / "a.mp4").write_bytes(b"media")
    (tmp_path / "clips.csv").write_text(f"clip,speaker,emotion\na.mp4,anna,{emotion}\n", "utf-8")
    with pytest.raises(
        CorpusError, match=r"clips\.csv:2: found emotion '.*'; expected printable characters only$"
    ) as e:
        scan_corpus("folder", tmp_path)
    assert str(e.value).isprintable()


def test_folder_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_bytes(b"clip,speaker,emotion\n\x81.mp4,a,joy\n")
    with pytest.raises(CorpusError, match=r"clips\.csv: not UTF-8, UTF-16 or Windows-1252 \(byte 21\)"):
        scan_corpus("folder", tmp_path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(deadline=None)  # writes a file for each example
@given(table=st.binary(max_size=200) | st.text(alphabet='a/.,"\n\0 é;', max_size=60).map(str.encode))
def test_folder_hostile_table_gives_one_error(scratch: Path, table: bytes) -> None:
    (scratch / "clips.csv").write_bytes(b"clip,speaker,emotion\n" + table)
    with pytest.raises(CorpusError):  # nothing it can name is there
        scan_corpus("folder", scratch)
