"""What the command line asks for: read, checked and refused before anything starts."""

import nbformat
import papermill
import pytest
from support import run, run_alone

from course import options
from course.options import Options, UsageError
from helpers.records import folders, parameters


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["-p", "learning_rte", "1e-3"], "did you mean learning_rate?"),
        (["-p", "no_such_thing_at_all", "1"], "known are: answer_column, attention"),
        (["-p", "lora_r", "-4"], "lora_r was -4"),
        (["-p", "quantization", "nf5"], "'nf4', 'int8' or 'none'"),
        (["-p", "run_dir", "here"], "give it with --run-dir"),
        (["--params", "missing.yaml"], "--params missing.yaml: there is no such file"),
        (["--from", "09"], "09: no such notebook"),
        (["--from", "0"], "0: no such notebook"),
        (["--from", "04", "--until", "02"], "--from 04 comes after --until 02"),
        (["-p", "push_to", "hub"], "hub_repo_id"),
        (["-p", "push_to", "none"], "load_from"),
        (["--processes", "0"], "should be 1 or more"),
        (["--accelerate-config", "missing.yaml"], "no such file"),
        (["--processes", "2", "--until", "02"], "03_train"),
        (["--run-dir", "a\0b"], "no path"),
    ],
)
def test_wrong_usage_is_refused_before_anything_starts(tmp_path, arguments, sentence):
    done = run("--run-dir", tmp_path / "run", *arguments)
    assert done.returncode == 2 and sentence in done.stderr
    assert not (tmp_path / "run").exists()


def test_refusals_in_a_terminal_are_one_sentence(tmp_path):
    done = run_alone("--run-dir", tmp_path / "run", "-p", "lora_r", "-4")
    assert done.returncode == 2 and "lora_r was -4" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_later_wins_and_text_stays_text(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfseed: 2\r\nlora_r: 8\r\nepochs: 3\r\n")
    values = (("epochs", "1e-1"), ("system_prompt", "no: really"), ("data_path", ""))
    given = Options(params=str(tmp_path / "mine.yaml"), values=values).given({"lora_r": 4})
    assert given == {
        "seed": 2,
        "lora_r": 4,
        "epochs": "1e-1",  # as YAML reads it; checking makes it a number
        "system_prompt": "no: really",
        "data_path": "",
    }
    assert Options(values=(("resume", "false"),)).given() == {"resume": False}
    assert Options(values=(("max_rows", "2024-13-45"),)).given() == {"max_rows": "2024-13-45"}


def test_paths_are_meant_from_where_they_are_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").touch()
    values = (("data_path", "mine.csv"), ("model_id", "owner/name"))
    given = Options(values=values).given()
    assert given == {"data_path": str(tmp_path / "mine.csv"), "model_id": "owner/name"}
    impossible = "x" * 5000
    assert Options(values=(("data_path", impossible),)).given() == {"data_path": impossible}


def test_notebooks_from_until():
    assert Options().notebooks() == parameters.NOTEBOOKS
    assert Options(first="02", last="03").notebooks() == ("02_quantize_and_lora", "03_train")
    assert Options(first="03_train", last="03").notebooks() == ("03_train",)


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("- 1\n", "should hold lines of the form"),
        ("a: [1\n", "cannot be read: while parsing"),
        ("a: 2024-13-45\n", "cannot be read: month must be in 1..12"),
        ("[" * 5000, "cannot be read"),
    ],
)
def test_files_that_hold_no_parameters(tmp_path, content, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"--params {path}.*{sentence}"):
        options.read_yaml("--params", path)


def test_defaults_are_those_in_the_cells():
    checked = options.checked_parameters({"lora_r": 8, "seed": 3})
    assert list(checked) == list(parameters.NOTEBOOKS)
    assert checked["02_quantize_and_lora"]["lora_r"] == 8
    assert {values["seed"] for values in checked.values()} == {3}
    assert checked["01_data"]["data_path"] == "../data/inbox.csv"


@pytest.mark.parametrize("typed", ["1e-3 / 2", "float('nan')", "some_name", "1e-3 ///"])
def test_a_default_that_is_no_plain_value_is_said(tmp_path, monkeypatch, typed):
    for name in parameters.NOTEBOOKS:
        notebook = nbformat.read(folders.NOTEBOOKS / f"{name}.ipynb", 4)
        for cell in notebook.cells:
            if name == "03_train" and "parameters" in cell.metadata.get("tags", []):
                before = papermill.inspect_notebook(str(folders.NOTEBOOKS / "03_train.ipynb"))
                was = f"learning_rate: float = {before['learning_rate']['default']}"
                assert was in cell.source
                cell.source = cell.source.replace(was, f"learning_rate: float = {typed}")
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(folders, "NOTEBOOKS", tmp_path)
    done = run("--run-dir", tmp_path / "run")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"03_train: its parameters cell sets learning_rate to {typed}" in done.stderr
    assert "write the number or the text itself there" in done.stderr
