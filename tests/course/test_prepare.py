"""Prepared copies: what stands in them, that nothing is run, and that nothing is lost."""

import nbformat
import papermill
import pytest
import yaml
from support import run

from course import execute, prepare
from helpers.records import files, folders, parameters

LLAMA3 = folders.NOTEBOOKS / "params" / "llama3-8b-t4.yaml"


def copy(run_dir, name="03_train"):
    """The prepared copy of a lesson (NotebookNode)."""
    return nbformat.read(run_dir / "notebooks" / f"{name}.ipynb", 4)


def in_place(notebook):
    """What the injected cell of a notebook sets ({name: value})."""
    (cell,) = (c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", []))
    values = {}
    exec(cell.source, values)
    return {name: value for name, value in values.items() if not name.startswith("__")}


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    """A run directory prepared for Llama 3 8B, which is not here and could not run here."""
    run_dir = tmp_path_factory.mktemp("prepared") / "run"
    done = run("--prepare", "--params", LLAMA3, "-p", "seed", "2", "--run-dir", run_dir)
    assert done.returncode == 0, done.stderr
    assert f'python -m jupyterlab "{run_dir / "notebooks"}"' in done.stdout
    return run_dir


def test_parameters_are_in_place_and_outputs_are_not(llama3):
    wanted = yaml.safe_load(LLAMA3.read_text(encoding="utf-8")) | {"seed": 2}
    found = {}
    for name in parameters.NOTEBOOKS:
        notebook = copy(llama3, name)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert not cell.get("outputs") and not cell.get("execution_count")
        values = in_place(notebook)
        assert values.pop("run_dir") == str(llama3)
        assert set(values) == set(wanted) & set(parameters.RULES[name])
        found |= values
    assert found == wanted
    assert sorted(path.name for path in llama3.iterdir() if not path.name.startswith(".")) == [
        "notebooks",
        "parameters.yaml",
    ]
    assert yaml.safe_load((llama3 / "parameters.yaml").read_text(encoding="utf-8")) == wanted


def test_code_stays_and_catching_up_takes_the_parameters(llama3):
    lesson = nbformat.read(folders.NOTEBOOKS / "03_train.ipynb", 4)
    there = [cell.source for cell in lesson.cells if cell.cell_type == "code"]
    here = [
        cell.source
        for cell in copy(llama3).cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    changed = [(old, new) for old, new in zip(there, here, strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0][1] == changed[0][0] + ' --params "{run_dir}/parameters.yaml"'


def test_links_lead_to_the_copies_or_to_the_web(llama3):
    for name in parameters.NOTEBOOKS:
        text = "\n".join(c.source for c in copy(llama3, name).cells if c.cell_type == "markdown")
        relative = set(prepare.LINK.findall(text))
        assert relative <= {f"{other}.ipynb" for other in parameters.NOTEBOOKS}
        assert "colab-badge" not in text and "/blob/" in text
        assert "/../" not in text


def test_copies_are_not_replaced_unless_forced(tmp_path):
    one = ["--prepare", "--run-dir", tmp_path, "--until", "01"]
    assert run(*one).returncode == 0
    assert not (tmp_path / "parameters.yaml").exists() and len(copy(tmp_path, "01_data").cells) > 5
    path = tmp_path / "notebooks" / "01_data.ipynb"
    path.write_text("my notes")
    done = run(*one)
    assert done.returncode == 2 and "already holds 01_data" in done.stderr
    assert path.read_text() == "my notes"
    assert run(*one, "--force").returncode == 0 and path.read_text() != "my notes"


def test_a_run_puts_a_prepared_copy_aside(tmp_path, capsys):
    assert run("--prepare", "--run-dir", tmp_path, "--until", "01").returncode == 0
    record = execute._record(tmp_path, "01_data", ".ipynb")
    assert not record.exists()
    assert record.with_stem("01_data_by_hand").is_file()
    assert "01_data_by_hand.ipynb" in capsys.readouterr().out
    files.write_json(record, {"metadata": {}})  # of a run
    execute._record(tmp_path, "01_data", ".ipynb")
    assert [path.name for path in record.parent.iterdir()] == ["01_data_by_hand.ipynb"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["-p", "lora_r", "-4"], "lora_r was -4"),
        (["--processes", "2"], "--prepare runs nothing"),
        (["--accelerate-config", "a.yaml"], "--prepare runs nothing"),
        (["--grid", "g.yaml"], "leave out --grid"),
        (["--from", "09"], "09: no such notebook"),
    ],
)
def test_what_is_refused(tmp_path, arguments, sentence):
    done = run("--prepare", "--run-dir", tmp_path / "run", *arguments)
    assert done.returncode == 2 and sentence in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_copy_runs_where_it_lies(tiny, tmp_path):
    """01 by hand: the data path is still the repository's, and results go to the run directory."""
    small = ["-p", "model_id", tiny, "-p", "max_rows", "60", "-p", "near_duplicate", "1"]
    assert run("--prepare", "--run-dir", tmp_path, *small).returncode == 0
    folder = tmp_path / "notebooks"
    papermill.execute_notebook(
        str(folder / "01_data.ipynb"), None, cwd=str(folder), progress_bar=False
    )
    assert (tmp_path / "01_data" / "manifest.json").is_file()
