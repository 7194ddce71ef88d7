"""The benchmarks: what cannot be measured or written is refused before anything is measured."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import kills
import pytest
import startup
import whole_course

from helpers.records import files, folders, parameters

FOLDER = folders.REPOSITORY / "tests" / "benchmarks"


@pytest.mark.slow
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
        ("whole_course.py --out {folder}", "is a folder; name a file"),
        ("whole_course.py -p lora_r -4", "lora_r was -4"),
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


def test_the_whole_course_is_read_from_its_manifests(monkeypatch):
    def run(command, **_):
        folder = Path(command[command.index("--run-dir") + 1])
        for number, name in enumerate(parameters.NOTEBOOKS, 1):
            (folder / name).mkdir()
            manifest = {"results": "", "seconds": number, "peak_memory_mb": 100 * number}
            files.write_json(folder / name / "manifest.json", manifest)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    found = whole_course.once(["-p", "seed", "1"])
    assert list(found) == [*parameters.NOTEBOOKS, whole_course.WHOLE]
    assert found["02_quantize_and_lora"] == (2, 200)
    assert found[whole_course.WHOLE][1] == 500
    assert whole_course.spread([1, 2, 9]) == "2 (1 to 9)"


def test_startup_times_every_module_and_each_can_be_imported():
    names = startup.modules()
    assert {"helpers.model.loading", "helpers.records.folders", "course.__main__"} <= set(names)
    for name in names:
        importlib.import_module(name)


def test_startup_knows_the_cell_that_checks_the_parameters():
    for name in parameters.NOTEBOOKS:
        text = (folders.REPOSITORY / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert text.count("Step(") == 1, name


def test_kills_compares_all_but_times_and_memory(tmp_path):
    (tmp_path / "03_train").mkdir()
    found = []
    for seconds, loss in ((1, 0.5), (2, 0.5), (2, 0.6)):
        metrics = {"seconds": seconds, "log": [{"eval_runtime": seconds, "loss": loss}]}
        files.write_json(tmp_path / "03_train" / "metrics.json", metrics)
        found.append(kills.results(tmp_path))
    assert found[0] == found[1] != found[2] and list(found[0]) == ["03_train/metrics.json"]


def test_kills_go_on_until_their_number_is_reached():
    moments = kills.moments_to_kill(3, 5.0, seed=1)
    drawn = [next(moments) for _ in range(5)]
    assert [target for target, _ in drawn] == ["runner", "kernel", "runner", None, None]
    assert all(1 <= seconds <= 5 for _, seconds in drawn[:3]) and drawn[3][1] is None
