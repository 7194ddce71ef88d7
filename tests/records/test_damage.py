"""Files that were cut off or changed are found, whole ones are not."""

import json
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from helpers.records.damage import damaged

WEIGHTS = {"weight": torch.arange(1000.0)}


def written(path):
    """`path`, with what a file of this ending holds."""
    if path.suffix in (".json", ".ipynb"):
        path.write_text(json.dumps({"loss": [1.0, 2.0], "text": "ü"}), encoding="utf-8")
    elif path.suffix == ".safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.ipynb", "a.safetensors", "a.pt", "a.pth", "a.bin"])
def test_a_file_cut_off_anywhere_is_damaged(tmp_path, name):
    path = written(tmp_path / name)
    assert not damaged(path)
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[: min(length, len(whole) - 1)])
        assert damaged(path), length


def test_a_changed_byte_of_a_torch_file_is_damage(tmp_path):
    path = written(tmp_path / "optimizer.pt")
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 2000] ^= 255
    path.write_bytes(content)
    assert damaged(path)


def test_what_is_not_text_is_damaged_json(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    assert damaged(tmp_path / "a.json")


def test_other_files_and_what_is_not_there_count_as_whole(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"\xff")
    assert not damaged(tmp_path / "notes.txt")
    assert not any(damaged(tmp_path / f"none.{kind}") for kind in ("json", "safetensors", "pt"))
