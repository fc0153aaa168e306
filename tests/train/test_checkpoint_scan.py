"""Checkpoints that are small, run no code, and would still hang or fill the memory of whoever reads them."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from tests.factories.small_trainings import make_trainer
from train.checkpoint import CheckpointError
from train.models.checkpoint_formats import WeightsError
from train.models.checkpoint_scan import MAX_OPERATIONS, MAX_TUPLE_VALUES, check_checkpoint
from train.models.weights import load_weights

STATE = OrderedDict((f"blocks.{i}.weight", torch.ones(4, 4)) for i in range(50))


def nested_checkpoint(path: Path, zipped: bool) -> Path:
    """t = (t, t), sixty times, as a key of a dict: 557 bytes that take for ever to hash."""
    nested = b"\x80\x02}(K\x01q\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"K\x01u."
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("nested/data.pkl", nested)
            archive.writestr("nested/version", "3\n")
    else:
        path.write_bytes(nested)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_as_training_code_writes_them_pass(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.pth"
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))]).state_dict()
    content = {
        "model": STATE,
        "optimizer": optimizer,
        "epoch": 3,
        "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.95)),
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    check_checkpoint(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.pth", tmp_path / "small.pth"
    torch.save({"w": torch.zeros(1_000_000)}, plain)
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert path.stat().st_size < plain.stat().st_size / 100
    with pytest.raises(WeightsError, match=r"small\.pth: found '.*' compressed, expected as torch\.save writes it"):
        check_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_keys_that_take_for_ever_to_hash_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = nested_checkpoint(tmp_path / "nested.pth", zipped)
    with pytest.raises(WeightsError, match="nested too deep"):
        check_checkpoint(path)


def test_long_chains_of_tuples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.pth"
    path.write_bytes(b"\x80\x02K\x01" + b"\x85" * (MAX_TUPLE_VALUES + 1) + b".")
    with pytest.raises(WeightsError, match="nested too deep"):
        check_checkpoint(path)


@pytest.mark.parametrize("module", [b"builtins", b"__builtin__"])
def test_byte_arrays_of_any_length_are_refused(tmp_path: Path, module: bytes) -> None:
    path = tmp_path / "bytes.pth"
    path.write_bytes(b"\x80\x02c" + module + b"\nbytearray\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R.")
    with pytest.raises(WeightsError, match="asks for a byte array"):
        check_checkpoint(path)


def test_a_pickle_larger_than_any_state_dict_needs(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    with zipfile.ZipFile(path, "w") as archive, archive.open("large/data.pkl", "w") as entry:
        entry.write(pickle.dumps("x" * ((64 << 20) + 1)))
    with pytest.raises(WeightsError, match="found a pickle of 6710"):
        check_checkpoint(path)


def test_more_operations_than_any_state_dict_needs(tmp_path: Path) -> None:
    path = tmp_path / "long.pth"
    path.write_bytes(b"\x80\x02" + b"N0" * (MAX_OPERATIONS // 2) + b"N.")
    with pytest.raises(WeightsError, match="operations in its pickle"):
        check_checkpoint(path)


def test_a_file_larger_than_any_checkpoint_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.pth"
    with path.open("wb") as file:
        file.truncate(40 << 30)
    with pytest.raises(WeightsError, match=f"found {40 << 30} bytes, expected at most"):
        check_checkpoint(path)


def test_the_entries_that_are_checked_are_those_that_torch_reads(tmp_path: Path) -> None:
    """zipfile finds the list of entries that lies before the end; torch the one that the end points to."""
    path = tmp_path / "two.pth"
    torch.save(STATE, path)
    data = path.read_bytes()
    path.write_bytes(data + data)
    with pytest.raises(WeightsError, match="found two lists of its entries"):
        check_checkpoint(path)
    # A pickle at the beginning is what torch reads of a file that only ends as an archive.
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\nK\x01\x85R." + data)
    with pytest.raises(WeightsError, match="asks for a byte array"):
        check_checkpoint(path)


def test_a_pickle_is_found_whatever_the_case_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "case.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("case/DATA.PKL", b"\x80\x02K\x01" + b"\x85" * (MAX_TUPLE_VALUES + 1) + b".")
    with pytest.raises(WeightsError, match="nested too deep"):
        check_checkpoint(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x03\x04" + bytes(500)])
def test_no_archive_after_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"cut\.pth: found no complete checkpoint"):
        check_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_command_refuses_them_in_one_line(tmp_path: Path, zipped: bool) -> None:
    """As weights to start from, and as the optimizer state of a run to resume."""
    path = nested_checkpoint(tmp_path / "nested.pth", zipped)
    with pytest.raises(WeightsError, match="nested too deep"):
        load_weights(path)
    trainer = make_trainer(tmp_path / "run")
    trainer.save()
    (next((tmp_path / "run" / "checkpoints").iterdir()) / "optimizer.pt").write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="nested too deep"):
        make_trainer(tmp_path / "run").fit()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02h\x05.", b"\x80\x02}u."])
def test_anything_else_is_left_to_torch(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    check_checkpoint(path)
