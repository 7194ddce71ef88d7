"""The extra notebooks: their form, and that their stored outputs are what the code gives."""

import re

import papermill
import pytest
from test_notebooks import load, nbval, problems

from course import refresh
from helpers.records import folders


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    """The sources of the cells of `notebook` with this tag (list of str)."""
    return [c.source for c in notebook.cells if tag in c.metadata.get("tags", [])]


@pytest.mark.parametrize("name", refresh.extras())
def test_form(name):
    notebook = load(name)
    assert problems(notebook) == []
    assert len(notebook.cells) <= 35
    assert max(len(cell.source.splitlines()) for cell in code(notebook)) <= 20
    (setup,) = tagged(notebook, "setup")
    (lesson,) = tagged(load("01_data"), "setup")
    assert setup == lesson.replace('"notebooks")', '"notebooks/extras")') != lesson
    assert len(tagged(notebook, "parameters")) == 1
    declared = papermill.inspect_notebook(str(folders.NOTEBOOKS / f"{name}.ipynb"))
    assert declared and all(about["help"] for about in declared.values())
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert len(re.findall(r"GLOSSARY\.md#", prose)) <= 5
    assert prose.count("\n## ") >= 5 and "## Recap\n" in prose
    wanted = load(name)
    refresh.in_line(wanted, name, *refresh.repository())
    assert wanted == notebook


@pytest.mark.course
def test_stored_outputs_are_what_the_code_gives(tmp_path):
    done = nbval([folders.NOTEBOOKS / f"{name}.ipynb" for name in refresh.extras()], tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) > 10
