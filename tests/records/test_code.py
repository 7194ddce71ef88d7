"""What of the code makes a finished step stale: statements that it runs, and nothing else."""

import ast
import json
import re
import shutil

import pytest

from helpers.records import code, folders, parameters

HELPERS = {
    "__init__.py": '"""A room."""\n',
    "plots.py": "def plot():\n    return 1\n",
    "machine.py": "from helpers.data import tables\n",
    "data/__init__.py": "",
    "data/splits.py": "from helpers.records import files\n\n\ndef split(rows):\n    return rows\n",
    "data/tables.py": "def table():\n    return 1\n",
    "records/__init__.py": "",
    "records/files.py": "def write():\n    return 1\n",
    "publish/__init__.py": "",
    "publish/hub.py": "from helpers.publish import practice_hub\n",
    "publish/practice_hub.py": "def serve():\n    return 1\n",
}
CELLS = [
    ("setup", 'REF = "v1"\n'),
    ("parameters", "seed: int = 1  # a help\n"),
    ("", "from helpers import machine, plots\n\nmachine.report()\n"),
    ("", "from helpers.data import splits\n\nparts = splits.split(rows)\n"),
    ("", "def own():\n    from helpers.publish.hub import push\n\n    return push\n"),
]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A small course of one notebook, whose helpers and cells the tests change."""
    for name, text in HELPERS.items():
        path = tmp_path / "helpers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(folders, "REPOSITORY", tmp_path)
    monkeypatch.setattr(folders, "NOTEBOOKS", tmp_path / "notebooks")
    write_cells(CELLS)
    return tmp_path


def write_cells(cells):
    written = [
        {"cell_type": "code", "metadata": {"tags": [tag] if tag else []}, "source": [source]}
        for tag, source in cells
    ]
    prose = {"cell_type": "markdown", "metadata": {}, "source": ["# A lesson"]}
    notebook = folders.NOTEBOOKS / "01_data.ipynb"
    notebook.write_text(json.dumps({"cells": [prose, *written]}))


def hash_with_cell(index, source):
    cells = list(CELLS)
    cells[index] = (CELLS[index][0], source)
    write_cells(cells)
    return code.code_hash("01_data")


@pytest.mark.parametrize(
    "name, text",
    [
        ("data/splits.py", "# why\n" + HELPERS["data/splits.py"]),
        ("data/splits.py", HELPERS["data/splits.py"].replace(":\n", ':\n    """Says."""\n')),
        ("data/splits.py", HELPERS["data/splits.py"].replace("return rows", "return (\n  rows\n)")),
        ("__init__.py", '"""Other words."""\n'),
        ("plots.py", "def plot():\n    return 2\n"),
        ("machine.py", "def report():\n    return 2\n"),
        ("publish/practice_hub.py", "def serve():\n    return 2\n"),
        ("data/tables.py", "def table():\n    return 2\n"),  # the machine check's alone
    ],
)
def test_what_computes_nothing_does_not_count(repository, name, text):
    before = code.code_hash("01_data")
    (repository / "helpers" / name).write_text(text)
    assert code.code_hash("01_data") == before


@pytest.mark.parametrize(
    "name",
    [
        "data/splits.py",  # imported by a cell
        "records/files.py",  # by a helper
        "publish/hub.py",  # inside a function
        "__init__.py",  # on the way to the others
        "data/__init__.py",
    ],
)
def test_a_statement_of_what_is_imported_counts(repository, name):
    before = code.code_hash("01_data")
    path = repository / "helpers" / name
    path.write_text(path.read_text() + "\nANSWER = 42\n")
    assert code.code_hash("01_data") != before


def test_cells_count_by_their_statements(repository):
    before = code.code_hash("01_data")
    assert hash_with_cell(0, 'REF = "v2"\n') == before
    assert hash_with_cell(1, "seed: int = 2\n") == before
    assert (
        hash_with_cell(3, "# a comment\n" + CELLS[3][1].replace("(rows)", "(\n    rows\n)"))
        == before
    )
    assert hash_with_cell(3, CELLS[3][1].replace("(rows)", "(rows[:9])")) != before
    assert hash_with_cell(2, CELLS[2][1].replace("report()", "report(1)")) != before


@pytest.mark.parametrize("magic", ["%matplotlib inline", "!ls", "if parts:\n    %time"])
def test_a_magic_hides_no_import(repository, magic):
    cell = f"{magic}\n{CELLS[3][1]}"
    before = hash_with_cell(3, cell)
    assert hash_with_cell(3, cell + "# more") != before  # no plain Python: its text counts
    hash_with_cell(3, cell)
    (repository / "helpers" / "data" / "splits.py").write_text("def split(rows):\n    return 1\n")
    assert code.code_hash("01_data") != before


def test_a_modulo_at_the_start_of_a_line_is_no_magic(repository):
    cell = "whole = (\n    number\n    % 2\n)\n"
    assert hash_with_cell(3, cell) != hash_with_cell(3, cell.replace("% 2", "% 3"))


def test_statements_that_change_places_between_modules_count(repository):
    """The hash holds where one module ends and the next begins."""
    before = hash_with_cell(3, "a = 1\nb = 2\n")
    write_cells([*CELLS[:3], ("", "a = 1\n"), ("", "b = 2\n"), CELLS[4]])
    assert code.code_hash("01_data") != before


def test_imported_names_modules_and_their_packages():
    source = (
        "import json\nimport helpers.data.splits\nfrom helpers.records.files import sha256\n"
        "from helpers import plots, nothing_of_this_name\nfrom . import data\n"
    )
    assert code.imported(source) == {
        "helpers",
        "helpers.data",
        "helpers.data.splits",
        "helpers.records",
        "helpers.records.files",
        "helpers.plots",
    }
    assert code.imported("this is no Python") == set()


def test_the_courses_own_code_is_the_same_without_comments_and_layout(tmp_path, monkeypatch):
    before = {notebook: code.code_hash(notebook) for notebook in parameters.NOTEBOOKS}
    shutil.copytree(folders.REPOSITORY / "helpers", tmp_path / "helpers")
    (tmp_path / "notebooks").mkdir()
    for path in (tmp_path / "helpers").rglob("*.py"):
        path.write_text(ast.unparse(ast.parse(path.read_text())))
    for notebook in parameters.NOTEBOOKS:
        content = json.loads((folders.NOTEBOOKS / f"{notebook}.ipynb").read_text())
        for cell in content["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and not re.search(r"^[%!]", source, re.MULTILINE):
                cell["source"] = [ast.unparse(ast.parse(source))]
            cell.pop("outputs", None)
        (tmp_path / "notebooks" / f"{notebook}.ipynb").write_text(json.dumps(content))
    monkeypatch.setattr(folders, "REPOSITORY", tmp_path)
    monkeypatch.setattr(folders, "NOTEBOOKS", tmp_path / "notebooks")
    assert {notebook: code.code_hash(notebook) for notebook in parameters.NOTEBOOKS} == before


def test_what_no_result_depends_on_exists_and_no_helper_is_imported_by_a_relative_name():
    """The first would be a name that was changed here alone, the second would not be found."""
    for module in code.NO_RESULTS:
        assert (folders.REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file(), module
    for path in (folders.REPOSITORY / "helpers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path
