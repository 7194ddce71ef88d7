"""Figures: those in the texts are those of the stored run, and how they get there."""

import copy
import re

import pytest
from support import course

from course import figures
from helpers.records import files, folders, manifests, parameters


@pytest.fixture(scope="module")
def stored():
    return figures.stored()


@pytest.mark.parametrize("name", figures.TEXTS)
def test_texts_have_the_figures_of_the_stored_run(stored, name):
    text = (folders.REPOSITORY / name).read_text(encoding="utf-8")
    assert figures.filled(text, stored, name) == text
    marked = {wanted for _, wanted, _ in figures.MARKED.findall(text)}
    assert {"times", "scores", "difference"} <= marked
    assert text.count("<!-- figures: ") == len(figures.MARKED.findall(text))


@pytest.mark.parametrize("name", parameters.NOTEBOOKS)
def test_lessons_say_how_long_they_take(stored, name):
    text = (folders.NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    about, minutes = re.search(r"\*\*Time:\*\* (about|less than) ([\d.]+) minute", text).groups()
    gap = 60 * float(minutes) - stored["notebooks"][name]["seconds"]
    assert abs(gap) <= 30 if about == "about" else 0 < gap < 60


def test_what_stands_at_a_marker_is_replaced(stored):
    changed = copy.deepcopy(stored)
    changed["systems"]["merged"] |= {"accuracy": 0.123, "ci95": [0.1, 0.2]}
    changed["notebooks"]["03_train"]["seconds"] = 77
    text = (
        "It is <!-- figures: merged -->old<!-- /figures --> in "
        "<!-- figures: 03 seconds --><!-- /figures -->.\n"
        "<!-- figures: scores -->\nold\n<!-- /figures -->"
    )
    made = figures.filled(text, changed)
    assert made.startswith("It is <!-- figures: merged -->12.3%<!-- /figures --> in ")
    assert "-->77 s<!--" in made and "| 12.3% | 10.0% – 20.0% |" in made and "old" not in made
    assert figures.filled(made, changed) == made
    with pytest.raises(figures.FiguresError, match="no figure is called 'nonsense'"):
        figures.filled("<!-- figures: nonsense --><!-- /figures -->", stored)


@pytest.mark.parametrize(
    "seconds, words",
    [(7, "less than 1 minute"), (50, "about 1 minute"), (107, "about 2 minutes")],
)
def test_minutes(seconds, words):
    assert figures.minutes(seconds) == words


@pytest.fixture
def finished(tmp_path, stored):
    """A run directory with as much of a finished run as figures are read from."""
    for name, one in stored["notebooks"].items():
        (tmp_path / name).mkdir()
        files.write_json(tmp_path / name / "manifest.json", one | {"parameters": {}, "results": ""})
    files.write_json(tmp_path / "03_train" / "metrics.json", stored["training"] | {"steps": 3})
    metrics = {key: stored[key] for key in ("test_rows", "systems", "verdict")}
    metrics["comparison"] = {f"merged_vs_{figures.RIVAL}": stored["against_rival"]}
    files.write_json(tmp_path / "05_evaluate" / "metrics.json", metrics)
    return tmp_path


def test_a_run_is_read_and_put_in(finished, stored, monkeypatch, tmp_path_factory):
    assert figures.read(finished) == stored
    monkeypatch.setattr(manifests, "is_current", lambda *_: True)
    monkeypatch.setattr(figures, "FILE", finished / "figures.json")
    monkeypatch.setattr(folders, "REPOSITORY", finished)
    written = {finished / "README.md": "new"}
    monkeypatch.setattr(figures, "written", lambda found: written if found == stored else {})
    (finished / "README.md").write_text("old")
    done = course("figures", finished)
    assert done.returncode == 0 and "wrote README.md" in done.stdout
    assert (finished / "README.md").read_text() == "new"
    assert files.read_json(finished / "figures.json") == stored


def test_a_run_that_is_not_of_this_code_is_refused(finished):
    before = figures.FILE.read_bytes()
    done = course("figures", finished)
    assert done.returncode == 1 and "has no run of 01_data" in done.stderr
    assert figures.FILE.read_bytes() == before


def test_all_texts_are_made_from_the_stored_run(stored):
    made = figures.written(stored)
    assert {path.name for path in made} == {
        "README.md",
        "INSTRUCTORS.md",
        *(f"{name}.ipynb" for name in parameters.NOTEBOOKS),
    }
