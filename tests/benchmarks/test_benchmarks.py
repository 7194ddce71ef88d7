"""The benchmarks' command lines: what cannot be measured or written is refused before anything is measured."""

import subprocess
import sys

import pytest

from helpers.records import folders

FOLDER = folders.REPOSITORY / "tests" / "benchmarks"


@pytest.mark.parametrize(
    "command, said",
    [
        ("train_speed.py --rows 0", "argument --rows: '0' should be a whole number of at least 1"),
        ("train_speed.py --rows 5000", "--rows: data/inbox.csv has"),
        ("train_speed.py -p lora_r -4", "lora_r was -4"),
        ("train_speed.py -p seed 5", "-p seed: use --seed"),
        ("train_speed.py -p resume true", "-p resume: this benchmark sets it"),
        ("eval_speed.py --rounds x", "argument --rounds: 'x' should be"),
        ("growth.py --rows 120", "--rows: at least two sizes"),
        ("data_scale.py --rows 9 9", "--rows: at least two sizes"),
        ("course.py --out {folder}", "is a folder; name a file"),
        ("course.py -p lora_r -4", "lora_r was -4"),
        ("startup.py --out {folder}/a/file/x.json", "cannot be made"),
        ("kills.py --kills -1", "argument --kills: '-1' should be"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, command, said):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    script, *arguments = command.format(folder=tmp_path).split(" ")
    done = subprocess.run(
        [sys.executable, FOLDER / script, *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2 and said in done.stderr, done.stderr
