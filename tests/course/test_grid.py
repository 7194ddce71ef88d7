"""Grids: names, what is copied from one run to the next, the table, and what is refused."""

import pandas as pd
import pytest
from support import course, run

from course import grid
from helpers.records import files, manifests, parameters


def test_every_combination_in_the_files_order():
    lists = {"lora_r": [4, 16], "epochs": 2.0, "seed": [1, 2]}
    every = grid.combinations(lists)
    assert [(each["lora_r"], each["epochs"], each["seed"]) for each in every] == [
        (4, 2.0, 1),
        (4, 2.0, 2),
        (16, 2.0, 1),
        (16, 2.0, 2),
    ]
    with pytest.raises(parameters.ParameterError, match="lora_r in the grid was an empty list"):
        grid.combinations({"lora_r": []})


def test_folder_names_say_what_varies_and_never_clash():
    lists = {"lora_r": [4, 16], "data_path": ["a/b.csv", "a_b.csv"], "epochs": 2}
    named = {grid.folder_name(each, lists) for each in grid.combinations(lists)}
    assert len(named) == 4 and "lora_r=4,data_path=a_b.csv" in named
    assert all("/" not in name for name in named)
    assert grid.folder_name({"epochs": 2}, {"epochs": 2}) == "single"
    assert len(grid.folder_name({"a": "x" * 500}, {"a": ["x" * 500]})) < 120


def test_steps_that_come_out_the_same_are_copied(tmp_path, monkeypatch):
    """From the first run that has them; nothing follows a step that has to be run."""
    current = {("01_data", "one"), ("02_quantize_and_lora", "two"), ("03_train", "two")}
    monkeypatch.setattr(
        manifests, "is_current", lambda notebook, run_dir, _: (notebook, run_dir.name) in current
    )
    for run_name in ("one", "two", "mine"):
        (tmp_path / run_name).mkdir()
    for notebook, run_name in current:
        folder = tmp_path / run_name / notebook
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "large").touch()
        (folder / ".lock").touch()
        (folder / "result").write_text(run_name)
    (tmp_path / "two" / "03_train").rename(tmp_path / "two" / "elsewhere")
    current.remove(("03_train", "two"))
    checked = dict.fromkeys(parameters.NOTEBOOKS)
    earlier = [tmp_path / "one", tmp_path / "two"]
    grid.reuse(tmp_path / "mine", earlier, parameters.NOTEBOOKS, checked)
    copied = {path.parent.name: path for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert {name: path.read_text() for name, path in copied.items()} == {
        "01_data": "one",
        "02_quantize_and_lora": "two",
    }


def test_the_table_and_the_plot(tmp_path, monkeypatch, capsys):
    def run_one(combination, run_dir, earlier):
        if combination["lora_r"] == 8:
            return "failed", "no\nmemory"
        run_dir.mkdir()
        return "done", ""

    measured = {"test_accuracy": 0.8, "low": 0.7, "high": 0.9, "seconds": 3.0}
    monkeypatch.setattr(grid, "figures", lambda _: measured)
    assert grid.run({"lora_r": [4, 8], "epochs": 1}, tmp_path, run_one) == 1
    table = pd.read_csv(tmp_path / "grid.csv")
    assert table["run"].tolist() == ["lora_r=4", "lora_r=8"]
    assert table["state"].tolist() == ["done", "failed"] and table["reason"][1] == "no memory"
    assert table["test_accuracy"][0] == 0.8 and (tmp_path / "grid.png").stat().st_size > 5000
    assert "1 of 2 runs done" in capsys.readouterr().out
    assert grid.run({"lora_r": [16]}, tmp_path, run_one) == 0


def test_figures_are_of_what_is_there_now(tmp_path, monkeypatch):
    contents = {
        "03_train/metrics.json": {"final_validation_loss": 0.5},
        "04_merge_push/merge_check.json": {"adapter_accuracy": 0.75},
        "05_evaluate/metrics.json": {"systems": {"merged": {"accuracy": 0.8, "ci95": [0.7, 0.9]}}},
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir()
        files.write_json(tmp_path / name, content)
        files.write_json(
            (tmp_path / name).with_name("manifest.json"), {"results": "", "seconds": 1.5}
        )
    current = {"03_train", "04_merge_push", "05_evaluate"}
    monkeypatch.setattr(manifests, "follows", lambda notebook, _: notebook in current)
    assert grid.figures(tmp_path) == {
        "validation_loss": 0.5,
        "validation_accuracy": 0.75,
        "test_accuracy": 0.8,
        "low": 0.7,
        "high": 0.9,
        "seconds": 4.5,
    }
    current.remove("05_evaluate")  # of an earlier 04
    assert grid.figures(tmp_path)["seconds"] == 3.0


def test_a_grid_is_refused_before_it_starts(tmp_path):
    given = ("--run-dir", tmp_path / "grid", "--grid", "grid.yaml")
    for content, more, sentence in (
        ("lora_r: [4, 8]\n", ("-p", "lora_r", 4), "the grid varies lora_r"),
        ("lora_rr: [1]\n", (), "did you mean lora_r?"),
        ("lora_r: []\n", (), "lora_r in the grid was an empty list"),
    ):
        (tmp_path / "grid.yaml").write_text(content)
        done = run(*given, *more, cwd=tmp_path)
        assert done.returncode == 2 and sentence in done.stderr
    done = run("--run-dir", tmp_path / "grid", "--grid", "missing.yaml")
    assert done.returncode == 2 and "--grid missing.yaml: there is no such file" in done.stderr


@pytest.mark.slow
def test_a_grid_reports_what_fails_and_copies_what_is_the_same(tiny, tmp_path):
    rows = [f"thing {i},{'up' if i % 2 else 'down'}\n" for i in range(40)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(rows))
    (tmp_path / "grid.yaml").write_text(
        f"data_path: mine.csv\nmodel_id: {tiny}\n"
        "lora_r: [4, -1]\nlora_targets: [q_proj, none_such]\n"
    )
    given = ("--run-dir", tmp_path / "grid", "--until", "02", "--grid", "grid.yaml")
    done = run(*given, cwd=tmp_path)
    assert done.returncode == 1 and "1 of 4 runs done" in done.stdout, (done.stdout, done.stderr)
    assert "lora_r was -1" in done.stderr and "lora_targets names ['none_such']" in done.stderr
    table = pd.read_csv(tmp_path / "grid" / "grid.csv")
    assert table["state"].tolist() == ["done", "failed", "refused", "refused"]
    assert done.stdout.count("01_data: running") == 1
    assert course("verify", tmp_path / "grid" / table["run"][0]).returncode == 0
