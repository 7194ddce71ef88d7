"""Figures of a finished run in the texts: gathered from the run directory, put in at markers.

A marker is an HTML comment, which readers do not see:

    <!-- figures: NAME -->whatever a run gave<!-- /figures -->

NAME is one of those in `blocks`. What lies between is replaced, and so is how long a lesson says
that it takes. docs/figures.json keeps the figures, so that a test can compare texts with it.
"""

import re
import sys

import nbformat

from course.options import checked_parameters
from helpers.evaluate import systems
from helpers.records import files, folders, manifests, parameters

FILE = folders.REPOSITORY / "docs" / "figures.json"
TEXTS = ("README.md", "notebooks/INSTRUCTORS.md")
MARKED = re.compile(r"(<!-- figures: ([\w ]+) -->).*?(<!-- /figures -->)", re.DOTALL)
TIME = re.compile(r"(?<=\*\*Time:\*\* )(?:about|less than) [\d.]+ minutes?")
RIVAL = "tfidf_logreg"  # the strongest that needs no tuning, in our run


class FiguresError(RuntimeError):
    """The figures cannot be taken from this run, or not put into a text; one sentence."""


def stored():
    """The figures (dict) in docs/figures.json."""
    return files.read_json(FILE)


def gather(run_dir):
    """The figures (dict) of a finished run on the defaults in `run_dir` (Path).

    Raises FiguresError when it is not finished, or has other parameters or other code.
    """
    checked = checked_parameters({})
    for name in parameters.NOTEBOOKS:
        if not manifests.is_current(name, run_dir, checked[name]):
            raise FiguresError(
                f"{run_dir} has no run of {name} with its defaults and with the code that is here: "
                "run `python -m course run` first."
            )
    return read(run_dir)


def read(run_dir):
    """The figures (dict) in the files of a finished run in `run_dir` (Path)."""
    made = {name: manifests.read_manifest(run_dir, name) for name in parameters.NOTEBOOKS}
    training = files.read_json(run_dir / "03_train" / "metrics.json")
    metrics = files.read_json(run_dir / "05_evaluate" / "metrics.json")
    return {
        "notebooks": {
            name: {
                "seconds": round(manifest["seconds"]),
                "peak_memory_mb": manifest["peak_memory_mb"],
            }
            for name, manifest in made.items()
        },
        "training": {key: training[key] for key in ("precision", "tokens_per_second")},
        "test_rows": metrics["test_rows"],
        "systems": {
            name: {key: row[key] for key in ("accuracy", "ci95", "seconds")}
            for name, row in metrics["systems"].items()
        },
        "against_rival": {
            key: metrics["comparison"][f"merged_vs_{RIVAL}"][key]
            for key in ("difference", "ci95", "p_value", "verdict")
        },
        "verdict": metrics["verdict"],
    }


def blocks(figures):
    """What stands at each marker: {name: text}; figures: as `gather` returns them (dict)."""
    made = {
        "times": _times(figures),
        "scores": _scores(figures),
        "difference": _difference(figures["against_rival"]),
        "precision": figures["training"]["precision"],
        "tokens per second": f"{figures['training']['tokens_per_second']:.0f}",
        "minutes": f"{sum(one['seconds'] for one in figures['notebooks'].values()) / 60:.0f}",
    }
    for name, one in figures["notebooks"].items():
        made[f"{name[:2]} seconds"] = f"{one['seconds']} s"
    for name, row in figures["systems"].items():
        made[name] = f"{row['accuracy']:.1%}"
        made[f"{name} interval"] = _interval(row)
    return made


def _times(figures):
    """A table: what each notebook takes."""
    lines = ["| notebook | seconds | peak memory, MB |", "|---|---:|---:|"]
    for name, one in figures["notebooks"].items():
        lines.append(f"| {name} | {one['seconds']} | {one['peak_memory_mb']} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def _scores(figures):
    """A table: how often each system is right."""
    head = f"| on {figures['test_rows']} test rows | accuracy | 95 % interval | seconds an answer |"
    lines = [head, "|---|---:|---:|---:|"]
    for name, row in figures["systems"].items():
        score = f"{row['accuracy']:.1%} | {_interval(row)} | {row['seconds']:.2f}"
        lines.append(f"| {systems.name(name)} | {score} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def _interval(row):
    low, high = row["ci95"]
    return f"{low:.1%} – {high:.1%}"


def _difference(compared):
    """The merged model's lead over the strongest simple method, in words."""
    low, high = (f"{100 * bound:+.1f}" for bound in compared["ci95"])
    points = f"{100 * compared['difference']:+.1f} points"
    return f"{points} (95 % interval {low} to {high}, McNemar p = {compared['p_value']:.2g})"


def minutes(seconds):
    """How long a lesson takes (int seconds), as it says itself."""
    if seconds < 45:
        return "less than 1 minute"
    rounded = round(seconds / 60) or 1
    return f"about {rounded} minute{'s' if rounded > 1 else ''}"


def filled(text, figures, name="the text"):
    """`text` with the figures (dict) put in at its markers; FiguresError speaks of `name`."""
    made = blocks(figures)
    for _, wanted, _ in MARKED.findall(text):
        if wanted not in made:
            known = ", ".join(sorted(made))
            raise FiguresError(f"{name}: no figure is called {wanted!r}; there are {known}.")
    return MARKED.sub(lambda found: f"{found[1]}{made[found[2]]}{found[3]}", text)


def written(figures):
    """{Path: text} of all texts and lessons with the figures (dict) put in."""
    made = {}
    for name in TEXTS:
        path = folders.REPOSITORY / name
        made[path] = filled(path.read_text(encoding="utf-8"), figures, name)
    for name, one in figures["notebooks"].items():
        path = folders.NOTEBOOKS / f"{name}.ipynb"
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = TIME.sub(minutes(one["seconds"]), cell.source)
        made[path] = nbformat.writes(notebook) + "\n"
    return made


def main(run_dir=""):
    """Put in the figures of the run in `run_dir` ("": runs/default); returns the exit code."""
    try:
        figures = gather(folders.run_directory(run_dir))
        made = written(figures)
    except (FiguresError, folders.ArtefactError) as error:
        print(error, file=sys.stderr)
        return 1
    for path, text in made.items():
        if path.read_text(encoding="utf-8") != text:
            files.write_text(path, text)
            print("wrote", path.relative_to(folders.REPOSITORY))
    files.write_json(FILE, figures)
    print("wrote", FILE.relative_to(folders.REPOSITORY))
    return 0
