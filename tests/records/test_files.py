"""Files: which count, their hashes, and writing that leaves the old one or the new one."""

import errno
import hashlib
import os

import pytest

from helpers.records import files


def test_contents_are_what_is_seen(tmp_path):
    names = ["b.txt", "a/c.txt", "a/manifest.json", "left/d.txt", "manifest.json"]
    for name in [*names, ".e.txt", ".f/g.txt", "a/.h"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = files.contents(tmp_path, left_out=["left"])
    assert list(found) == ["a/c.txt", "a/manifest.json", "b.txt"]
    assert found["a/c.txt"] == tmp_path / "a" / "c.txt"
    assert "left/d.txt" in files.contents(tmp_path)


def test_hidden_is_a_matter_of_what_lies_inside(tmp_path):
    folder = tmp_path / ".home"
    assert files.hidden(folder / ".cache" / "a", folder) and files.hidden(folder / ".a", folder)
    assert not files.hidden(folder / "cache" / "a.b", folder)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_where_a_text_ends_matters():
    assert files.text_hash("ab", "c") != files.text_hash("a", "bc")
    assert files.text_hash([{"role": "user"}]) != files.text_hash([{"role": "system"}])
    assert files.text_hash("ü") == files.text_hash("ü") and len(files.text_hash()) == 64


def test_json_comes_back_as_it_was(tmp_path):
    value = {"ü": [1, 0.1, None, True, "a\nb"]}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("\n")
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, failing):
    files.write_text(tmp_path / "a", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_a_write_appears_whole(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append((tmp_path / "a").read_text()))
    files.write_text(tmp_path / "a", "new")
    assert seen == ["old"] and (tmp_path / "a").read_text() == "new"
