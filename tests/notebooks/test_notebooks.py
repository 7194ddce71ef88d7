"""The committed notebooks: their form, and that their stored outputs are what the code gives."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest
import yaml

from course import exercises, options, refresh
from helpers.records import folders, parameters

FOLDER = folders.NOTEBOOKS


def load(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def problems(notebook):
    """What is wrong with a committed notebook (NotebookNode), as a list of sentences."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("cells were not run in order")
    if sum(bool(cell.outputs) for cell in code) < len(code) / 3:
        found.append("outputs are missing")
    for cell in code:
        prints = re.search(r"\bprint\(", cell.source) and "setup" not in cell.metadata.get(
            "tags", []
        )
        if prints and not cell.outputs:
            found.append(f"this cell prints but has no output: {cell.source[:50]}")
        found += ["an error output" for out in cell.outputs if out.output_type == "error"]
    text = nbformat.writes(notebook)
    found += [f"{key} metadata" for key in ("papermill", "widgets") if key in notebook.metadata]
    if re.search(r"/(root|home|tmp|Users)/\w|[A-Z]:\\\\Users", text):
        found.append("an absolute path")
    return found


@pytest.mark.parametrize("name", parameters.NOTEBOOKS)
def test_form(name):
    notebook = load(name)
    assert problems(notebook) == []
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds.count("markdown") > kinds.count("code")
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert tags.count("parameters") == tags.count("setup") == 1
    declared = papermill.inspect_notebook(str(FOLDER / f"{name}.ipynb"))
    assert set(declared) == set(parameters.RULES[name])
    assert all(about["help"] for about in declared.values())
    parameters.check(name, options.defaults(name))


def committed():
    """All committed notebooks (list of Path)."""
    return [
        path
        for place in (".", "exercises", "extras")
        for path in sorted((FOLDER / place).glob("*.ipynb"))
    ]


def long_lines(notebook):
    """Code lines of over 100 columns (list of str), those of the parameters cell aside."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            found += [line for line in cell.source.splitlines() if len(line) > 100]
    return found


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem)
def test_no_line_of_code_is_over_100_columns(path):
    """They would be cut on a projector; ruff leaves notebooks' lines alone, for help comments."""
    assert long_lines(nbformat.read(path, 4)) == []


def test_a_long_line_is_found():
    long = nbformat.v4.new_code_cell("short = 1\n" + "x" * 101)
    declared = nbformat.v4.new_code_cell("y" * 101, metadata={"tags": ["parameters"]})
    assert long_lines(nbformat.v4.new_notebook(cells=[long, declared])) == ["x" * 101]


@pytest.mark.parametrize("name", parameters.NOTEBOOKS)
def test_set_up_and_badge_follow_pyproject(name):
    notebook, wanted = load(name), load(name)
    refresh.in_line(wanted, name, *refresh.repository())
    assert notebook == wanted


@pytest.mark.parametrize("name", parameters.NOTEBOOKS)
def test_form_of_exercises(name):
    solution = nbformat.read(exercises.FOLDER / f"{name}_solution.ipynb", 4)
    assert problems(solution) == []
    lines = solution.cells[0].source.splitlines()
    assert (
        f"(../{name}.ipynb)" in solution.cells[0].source
        and f"/notebooks/exercises/{name}_solution.ipynb)" in lines[1]
    )
    tasks = [cell.source for cell in solution.cells if re.match(r"## Exercise \d", cell.source)]
    minutes = [
        int(re.search(r"\((\d+) minutes\)", task.splitlines()[0]).group(1)) for task in tasks
    ]
    assert 3 <= len(tasks) <= 5 and all(5 <= each <= 15 for each in minutes)
    assert f"about {sum(minutes)} minutes" in solution.cells[0].source
    assert sum(cell.source.startswith("checks.") for cell in solution.cells) == len(tasks)


def test_form_of_the_failure_lab():
    lab = nbformat.read(exercises.FOLDER / "failure_lab_solution.ipynb", 4)
    assert problems(lab) == []
    assert [
        int(number) for cell in lab.cells for number in re.findall(r"^## (\d+) ", cell.source)
    ] == list(range(1, 11))
    assert sum("checks." in cell.source for cell in lab.cells) >= 10


def test_spoiled_notebooks_are_found():
    cleared = load("01_data")
    for cell in cleared.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    assert "outputs are missing" in problems(cleared)
    with_path = load("01_data")
    with_path.cells[0].source += "/home/someone/file"
    assert "an absolute path" in problems(with_path)


def nbval(paths, run_dir, *options, **more):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-cell-timeout=3000",
        "-p",
        "no:cacheprovider",
        "-q",
        *options,
    ]
    environment = os.environ | {"COURSE_RUN_DIR": str(run_dir), "HF_HUB_OFFLINE": "1"} | more
    return subprocess.run(
        [*command, *map(str, paths)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=FOLDER,
    )


@pytest.mark.slow
def test_nbval_finds_an_edited_output(tmp_path):
    """A copy of 01 with one stored output edited must fail, and only there."""
    edited = load("01_data")
    printed = [out for cell in edited.cells for out in cell.get("outputs", []) if "text" in out]
    target = next(out for out in printed if out.text.startswith("checked "))
    target.text = target.text.replace("checked", "looked at")
    shutil.copytree(folders.REPOSITORY / "data", tmp_path / "data")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(FOLDER / "conftest.py", tmp_path / "notebooks")
    nbformat.write(edited, tmp_path / "notebooks" / "01_data.ipynb")
    done = nbval([tmp_path / "notebooks" / "01_data.ipynb"], tmp_path / "run")
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-3000:]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """nbval over the five notebooks: the finished process, and the run directory (Path)."""
    run_dir = tmp_path_factory.mktemp("course")
    return nbval([FOLDER / f"{name}.ipynb" for name in parameters.NOTEBOOKS], run_dir), run_dir


@pytest.mark.course
def test_stored_outputs_are_what_the_code_gives(course):
    done, _ = course
    assert done.returncode == 0, done.stdout[-6000:]
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) > 60


@pytest.mark.course
def test_solutions_outputs_are_what_the_code_gives(course):
    done = nbval(
        exercises.solutions(), course[1], "-n", "2", "--dist", "loadfile", OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) > 60


def set_up_cell(path):
    """The source (str) of the one set-up cell of the notebook at `path`."""
    cells = nbformat.read(path, 4).cells
    (source,) = (cell.source for cell in cells if "setup" in cell.metadata.get("tags", []))
    return source


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem)
def test_set_up_steps_aside(path):
    """At most six lines of code, the same everywhere; Colab starts the notebook with a GPU."""
    folder = path.parent.relative_to(folders.REPOSITORY).as_posix()
    lesson = set_up_cell(FOLDER / "01_data.ipynb")
    assert set_up_cell(path) == lesson.replace('("notebooks")', f'("{folder}")')
    assert sum(bool(line) for line in lesson.splitlines()) <= 6
    assert refresh.GPU.items() <= nbformat.read(path, 4).metadata.items()


def repository_to_clone(folder, ref):
    """A git repository (Path) in `folder`, with this one's files and the tag `ref`."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=folders.REPOSITORY, capture_output=True, check=True)
    origin = folder / "llama3-lora-course"
    for name in filter(None, done.stdout.decode().split("\0")):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folders.REPOSITORY / name, origin / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-C", str(origin)]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"], ["tag", ref]):
        subprocess.run([*git, *command], check=True)
    return origin


# So that the installed course is not found, as in Colab and on Kaggle.
NOT_INSTALLED = """
import pathlib, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [path for path in sys.path if not pathlib.Path(path or ".", "helpers").is_dir()]
"""
FOUND = """
import os, helpers
print(os.path.basename(os.getcwd()), os.environ.get("HF_TOKEN"), helpers.__file__)
"""
IN_ANOTHER_PROCESS = f"""
import subprocess
subprocess.run([sys.executable, "-c", {FOUND!r}], check=True)
"""
SECRETS = {  # stand-ins, by where they are imported from
    "colab": ("google/colab/userdata.py", "def get(name):\n    return 'from colab'\n"),
    "kaggle": (
        "kaggle_secrets.py",
        "class UserSecretsClient:\n    def get_secret(self, name):\n        return 'from kaggle'\n",
    ),
    "neither": ("google/colab/userdata.py", "def get(name):\n    raise KeyError(name)\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", SECRETS)
def test_set_up_cell(tmp_path, place):
    """Elsewhere it clones, keeps torch, finds the token, and may run again, also after a restart.

    A stand-in for the place has a secret, or none; the repository is a local clone's.
    """
    url, ref = refresh.repository()
    origin = repository_to_clone(tmp_path / "origin", ref)
    name, code = SECRETS[place]
    secrets = tmp_path / "fake" / name
    secrets.parent.mkdir(parents=True)
    secrets.write_text(code)
    cell = set_up_cell(FOLDER / "01_data.ipynb").replace(url, str(origin))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "fake")}
    environment.pop("HF_TOKEN", None)
    content = tmp_path / "content"
    content.mkdir()
    token = None if place == "neither" else f"from {place}"
    clone = content / "llama3-lora-course"
    expected = f"notebooks {token} {clone / 'helpers' / '__init__.py'}\n"
    for _ in range(2):  # the second is a restarted kernel
        done = subprocess.run(
            [sys.executable, "-c", NOT_INSTALLED + cell + "\n" + cell + FOUND + IN_ANOTHER_PROCESS],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            cwd=content,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout == 2 * expected
    torch = importlib.metadata.version("torch")
    assert (clone / ".torch.txt").read_text() == f"torch=={torch}\n"


def test_set_up_cell_does_nothing_where_the_course_is_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(set_up_cell(FOLDER / "01_data.ipynb"), {})
    assert os.getcwd() == str(tmp_path) and not list(tmp_path.iterdir())


def test_parameter_files_spell_out_what_the_notebooks_declare():
    spelled = yaml.safe_load((FOLDER / "params" / "cpu.yaml").read_text(encoding="utf-8"))
    defaults = {}
    for name in parameters.NOTEBOOKS:
        defaults |= options.defaults(name)
    del defaults["run_dir"]
    assert spelled == defaults
    for path in (FOLDER / "params").glob("*.yaml"):
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name in parameters.NOTEBOOKS:
            parameters.check(name, {**defaults, "run_dir": "", **given})
        assert set(given) <= set(defaults), path.name
