"""Start at any notebook: fill in what comes before it.

What is there and whole is kept. What a finished run has, with the same parameters, data and model,
is copied: from the run that is named, or else from runs/finished (which the classroom's archive may
bring) or runs/default. What is then still missing is run. Says first how long that will take, and
afterwards what it did.
"""

import dataclasses
import os
import time
from pathlib import Path
from typing import NamedTuple

from course import figures, grid, run
from course.options import UsageError, checked_parameters
from helpers.records import folders, manifests, weights

COPIED = grid.COPIED  # 04 and what it pushed are a gigabyte, and made in a minute or two
# What an unreadable manifest, or one of another version of the course, leads to.
NO_MANIFEST = (folders.ArtefactError, KeyError, TypeError)


class Action(NamedTuple):
    """What is done for a notebook: "keep" it, "copy" it from the run `source`, or "run" it."""

    notebook: str
    what: str
    source: Path | None


def unusable(notebook, source, wanted):
    """Why the result of `notebook` in the run directory `source` (Path) cannot be copied, or "".

    It must be whole, and made with the parameters `wanted` ({name: value}) from the data and the
    model that are here. The code may have changed since: whoever tried something in a notebook can
    still catch up.
    """
    try:
        manifest = manifests.read_manifest(source, notebook)
        model_id = manifests.read_manifest(source, "01_data")["parameters"]["model_id"]
        differences = _differences(manifest["parameters"], wanted)
        if differences:
            return f"{notebook} was made with {differences}"
        processes = manifest["processes"]
        if not manifests.is_current(notebook, source, wanted, processes=processes, code=False):
            return (
                f"{notebook} is damaged there, or the data or an earlier notebook has changed since"
            )
        if manifest["model"] != weights.identity(model_id):
            return f"{notebook} was made with another {model_id} than the one here"
    except folders.ArtefactError as error:
        return str(error)
    except (KeyError, TypeError):
        return f"the manifest of {notebook} is of another version of the course"
    return ""


def _differences(made_with, wanted):
    """Which of the parameters `wanted` are others than those of a manifest, in words, or ""."""
    different = []
    for name, value in wanted.items():
        if name != "run_dir" and made_with.get(name) != value:
            different.append(f"{name} {made_with.get(name)!r}, not {value!r}")
    return ", ".join(different)


def plan(before, run_dir, sources, checked):
    """What to do for each notebook that `before` (str) needs, in order, as a list of Action.

    run_dir: Path to be filled; sources: finished runs (list of Path); checked: parameters of every
    notebook. Raises ArtefactError when what is there has another seed. Prints why a source that has
    a result cannot be used.
    """
    actions = []
    results = {}  # hash of what each earlier notebook will have made, None when it is yet to be run
    for notebook in manifests.NEEDS[before]:
        if _is_whole(notebook, run_dir, results):
            _require_seed(notebook, run_dir, checked[before]["seed"], before)
            action = Action(notebook, "keep", run_dir)
        else:
            source = _source(notebook, sources, checked, results)
            action = Action(notebook, "copy" if source else "run", source)
        actions.append(action)
        made = action.source and manifests.read_manifest(action.source, notebook)
        results[notebook] = made["results"] if made else None
    return actions


def _is_whole(notebook, run_dir, results):
    """True when `notebook` is finished and whole in `run_dir`, and was made from `results`."""
    return _follows(notebook, run_dir, results) and not manifests.damaged_files(run_dir, notebook)


def _follows(notebook, folder, results):
    """True when `notebook` is finished in the run directory `folder`, and made from `results`."""
    try:
        inputs = manifests.read_manifest(folder, notebook)["inputs"]
        return all(inputs[name] == results[name] for name in manifests.NEEDS[notebook])
    except NO_MANIFEST:
        return False


def _require_seed(notebook, run_dir, wanted, before):
    """Raise ArtefactError when what is kept for `before` (str) has another seed than `wanted`."""
    seed = manifests.read_manifest(run_dir, notebook)["seed"]
    if seed != wanted:
        raise folders.ArtefactError(
            f"{notebook} in {run_dir} ran with seed {seed}, not {wanted}: say -p seed {seed}, here "
            f"and in {before}, or use another run directory."
        )


def _source(notebook, sources, checked, results):
    """The first of the run directories `sources` whose `notebook` can be copied, or None.

    Prints why others that have it cannot be used; checked, results: as in `plan`.
    """
    if notebook not in COPIED:
        return None
    for source in sources:
        reason = unusable(notebook, source, checked[notebook])
        if not reason and not _follows(notebook, source, results):
            reason = f"its {notebook} was made from other results than these"
        if not reason:
            return source
        if (source / notebook).exists():
            print(f"not from {source}: {reason}", flush=True)
    return None


def seconds(notebook, runs):
    """Seconds (float) that `notebook` took in the first of the run directories `runs` that has it.

    When none has, those of the run whose figures the README shows.
    """
    for folder in runs:
        try:
            return manifests.read_manifest(folder, notebook)["seconds"]
        except NO_MANIFEST:
            continue
    return float(figures.stored()["notebooks"][notebook]["seconds"])


def copy(notebook, source, run_dir):
    """Copy the result of `notebook` from the run directory `source` into `run_dir` (Paths).

    What is in its place is put aside.
    """
    target = run_dir / notebook
    if target.exists():
        folders.hold(target).release(force=True)  # or its kernel is still at work
        number = 1
        while (aside := run_dir / f"{notebook}.aside-{number}").exists():
            number += 1
        os.replace(target, aside)
        print(f"what was in {notebook} is now in {aside.name}", flush=True)
    grid.copy(notebook, source, run_dir)


def fill_in(options, from_run=""):
    """Fill in what comes before the notebook `options.first`, e.g. "04"; returns None.

    options: Options, with the run directory to fill and the parameters; from_run: a finished run to
    copy from. Prints what it will do and what it did. Raises what `run.course` raises, and
    ArtefactError when another process is at work in the run directory.
    """
    before = dataclasses.replace(options, last=options.first).notebooks()[0]
    checked = checked_parameters(options.given())
    if from_run and not Path(from_run).expanduser().is_dir():
        raise UsageError(f"--from-run {from_run}: there is no such folder.")
    run_dir, lock = run.hold_run_directory(options.run_dir)
    try:
        sources = finished_runs(from_run, run_dir)
        actions = plan(before, run_dir, sources, checked)
        announce(before, run_dir, sources, actions)
        start = time.monotonic()
        for action in actions:
            if action.what == "copy":
                copy(action.notebook, action.source, run_dir)
    finally:
        lock.release(force=True)
    missing = [action.notebook for action in actions if action.what == "run"]
    if missing:
        run.course(
            dataclasses.replace(options, run_dir=str(run_dir), first=missing[0], last=missing[-1])
        )
    print(
        f"{summary(actions)}, in {time.monotonic() - start:.1f} s. {before} can start.", flush=True
    )


def finished_runs(from_run, run_dir):
    """The run directories (list of Path) to copy from: `from_run`, else those of the repository."""
    places = [folders.REPOSITORY / "runs" / name for name in ("finished", "default")]
    if from_run:
        places = [Path(from_run).expanduser()]
    found = [place.resolve() for place in places if place.is_dir()]
    return [place for place in found if place != run_dir]


def announce(before, run_dir, sources, actions):
    """Print what will be done for each notebook, and how long that takes."""
    print(f"To start at {before} in {run_dir}:")
    total = 0.0
    for action in actions:
        how = "is there, kept"
        if action.what == "copy":
            how = f"copied from {action.source}"
        elif action.what == "run":
            estimate = seconds(action.notebook, [run_dir, *sources])
            total += estimate
            how = f"run, about {estimate:.0f} s"
        print(f"  {action.notebook:<22}{how}")
    if total > 90:
        duration = f"about {total / 60:.0f} minutes"
    else:
        duration = "a minute or two" if total else "a few seconds"
    print(f"This takes {duration}.", flush=True)


def summary(actions):
    """What was done (list of Action) in a line, e.g. "kept 01_data; ran 02_quantize_and_lora"."""
    parts = []
    for what, done in (("keep", "kept"), ("copy", "copied"), ("run", "ran")):
        notebooks = [action.notebook for action in actions if action.what == what]
        if notebooks:
            parts.append(f"{done} {', '.join(notebooks)}")
    return "; ".join(parts) or "nothing to fill in"
