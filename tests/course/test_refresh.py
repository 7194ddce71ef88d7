"""Refreshing: what is written into the committed notebooks, and what never is."""

import nbformat
import pytest
from support import course

from course import refresh
from helpers.records import folders


def lesson(name="01_data"):
    """A committed lesson (NotebookNode)."""
    return nbformat.read(folders.NOTEBOOKS / f"{name}.ipynb", 4)


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """The run directory (Path) of a refresh; the environment is put back afterwards."""
    monkeypatch.setenv("COURSE_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize("first, kept", [("01", False), ("03", False), ("04", True)])
def test_a_refresh_trains_from_the_start(run_dir, monkeypatch, first, kept):
    checkpoints = run_dir / "03_train" / "checkpoints"
    (checkpoints / "checkpoint-8").mkdir(parents=True)
    seen = []

    def executed(path, output):
        seen.append((path.name[:2], checkpoints.exists()))
        raise refresh.RefreshError("stopped before anything is written")

    monkeypatch.setattr(refresh, "executed", executed)
    done = course("refresh", "--from", first)
    assert done.returncode == 1 and done.stderr == "stopped before anything is written\n"
    assert seen == [(first, kept)]


def test_outputs_are_written_when_all_have_run(run_dir, monkeypatch):
    ran, written = [], []

    def executed(path, output):
        assert not written
        ran.append(path.name)
        return nbformat.read(path, 4)

    monkeypatch.setattr(refresh, "executed", executed)
    monkeypatch.setattr(refresh, "write", lambda notebook, path: written.append(path.name))
    done = course("refresh", "--from", "04")
    wanted = ["04_merge_push", "05_evaluate", "extras/why_it_is_fast"]
    assert done.returncode == 0 and f"wrote outputs into {', '.join(wanted)}" in done.stdout
    assert ran == written == [f"{name.split('/')[-1]}.ipynb" for name in wanted]
    ran.clear()
    written.clear()
    assert course("refresh", "--from", "extras").returncode == 0
    assert ran == written == ["why_it_is_fast.ipynb"]


def test_set_up_and_badge_get_url_and_ref():
    notebook = lesson()
    refresh.in_line(notebook, "01_data", "https://example.org/me/mine", "v9")
    (setup,) = (c.source for c in notebook.cells if "setup" in c.metadata.get("tags", []))
    assert '"git clone -qb v9 https://example.org/me/mine"' in setup
    assert 'run_path("mine/helpers/hosted.py")' in setup
    assert notebook.metadata["accelerator"] == "GPU"
    badge = "https://colab.research.google.com/github/me/mine/blob/v9/notebooks/01_data.ipynb)"
    assert badge in notebook.cells[0].source
    refresh.in_line(notebook, "01_data", *refresh.repository())
    assert notebook == lesson()


def test_what_belongs_to_the_run_is_dropped_and_printing_in_pieces_is_one():
    def stream(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)

    picture = nbformat.v4.new_output("display_data", data={"text/plain": "picture"})
    outputs = [stream("a"), stream("b"), stream("x", "stderr"), stream("c"), picture, stream("d")]
    cell = nbformat.v4.new_code_cell("1", outputs=[*outputs, stream("")])
    cell.metadata.update(papermill={"start_time": 1}, execution={"busy": "now"}, tags=[])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}, "papermill": {}})
    refresh.clean(notebook)
    texts = [output.get("text", "picture") for output in notebook.cells[0].outputs]
    assert texts == ["abc", "picture", "d"]
    assert not notebook.cells[0].metadata and list(notebook.metadata) == ["language_info"]


def test_an_absolute_path_is_never_stored():
    notebook = lesson()
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    cell.outputs = [nbformat.v4.new_output("stream", text="/home/someone/file\n")]
    with pytest.raises(refresh.RefreshError, match="/home/s.*: nothing was written"):
        refresh.clean(notebook)


def test_what_is_edited_during_a_run_is_not_lost(tmp_path):
    path = tmp_path / "01_data.ipynb"
    ran, edited = lesson(), lesson()
    last = [cell for cell in ran.cells if cell.cell_type == "code" and cell.outputs][-1]
    last.outputs, place = [nbformat.v4.new_output("stream", text="new\n")], ran.cells.index(last)
    edited.cells[1].source = "## Better prose"
    old = "colab.research.google.com/github/"
    edited.cells[0].source = edited.cells[0].source.replace(old, f"{old}old/")
    refresh.write(edited, path)
    stored = refresh.updated(path, ran, "01_data")
    wanted = lesson()
    wanted.cells[1].source, wanted.cells[place].outputs = "## Better prose", last.outputs
    assert stored == wanted
    edited.cells[place].source += "\nprint('more')"
    refresh.write(edited, path)
    with pytest.raises(refresh.RefreshError, match="01_data.ipynb was edited while it ran"):
        refresh.updated(path, ran, "01_data")
    assert [file.name for file in tmp_path.iterdir()] == ["01_data.ipynb"]


@pytest.mark.slow
def test_a_notebook_is_run_in_its_folder_and_a_failure_is_one_sentence(tmp_path):
    folder = tmp_path / "a {folder}"
    folder.mkdir()
    metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}

    def executed(code):
        cells = [nbformat.v4.new_code_cell(code)]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, folder / "one.ipynb")
        return refresh.executed(folder / "one.ipynb", tmp_path / "{out}.ipynb")

    ran = executed("import os; print(os.path.basename(os.getcwd()))")
    assert ran.cells[0].outputs[0].text == "a {folder}\n" and ran.cells[0].execution_count == 1
    with pytest.raises(refresh.RefreshError, match=r"one.ipynb failed in the cell marked \[1\]: Z"):
        executed("1 / 0")
