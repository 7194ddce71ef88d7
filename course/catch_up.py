"""Start at any notebook: python -m course catch-up 04 [--run-dir DIR] [--from-run DIR] [--params FILE.yaml] [-p NAME VALUE]...

Fills in what comes before that notebook. What is there and whole is kept. What a finished run has, with the same
parameters, data and model, is copied: from --from-run, or else from runs/finished (which the classroom's archive may bring)
or runs/default. What is then still missing is run. Says first how long that will take, and afterwards what it did.

Exit codes: 0 done, 1 it could not be filled in, 2 wrong usage, 130 interrupted.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

from course import grid, run
from helpers.records import folders, manifests, parameters, weights

COPIED = grid.COPIED  # 04 and what it pushed are a gigabyte, and made in a minute or two


def unusable(notebook, source, wanted):
    """Why the result of `notebook` in the run directory `source` (Path) cannot be copied (str), or "" when it can.

    It must be whole, and made with the parameters `wanted` ({name: value}) from the data and the model that are here. The
    notebook's code may have changed since: whoever tried something in it can still catch up.
    """
    try:
        manifest = manifests.read_manifest(source, notebook)
        made_with = manifest["parameters"]
        other = [
            f"{name} {made_with.get(name)!r}, not {value!r}"
            for name, value in wanted.items()
            if name != "run_dir" and made_with.get(name) != value
        ]
        if other:
            return f"{notebook} was made with {', '.join(other)}"
        if not manifests.is_current(notebook, source, wanted, manifest["processes"], code=False):
            return (
                f"{notebook} is damaged there, or the data or an earlier notebook has changed since"
            )
        model_id = manifests.read_manifest(source, "01_data")["parameters"]["model_id"]
        same_model = manifest["model"] == weights.identity(model_id)
        return (
            "" if same_model else f"{notebook} was made with another {model_id} than the one here"
        )
    except folders.ArtefactError as error:
        return str(error)
    except (KeyError, TypeError):
        return f"the manifest of {notebook} is of another version of the course"


def plan(before, run_dir, sources, checked):
    """What to do for each notebook that `before` (str) needs, as a list of (notebook, "keep" | "copy" | "run", source or None).

    run_dir: Path to be filled; sources: finished runs (list of Path); checked: parameters of every notebook.
    Raises ArtefactError when what is there has another seed. Prints why a source that has a result cannot be used.
    """
    steps, made = [], {}  # made: fingerprint of each earlier result, None when it is yet to be run

    def follows(notebook, folder):
        try:
            inputs = manifests.read_manifest(folder, notebook)["inputs"]
            return all(inputs[earlier] == made[earlier] for earlier in manifests.NEEDS[notebook])
        except (folders.ArtefactError, KeyError, TypeError):
            return False

    for notebook in manifests.NEEDS[before]:
        source = None
        if follows(notebook, run_dir) and not manifests.damaged_files(run_dir, notebook):
            seed, wanted = (
                manifests.read_manifest(run_dir, notebook)["seed"],
                checked[before]["seed"],
            )
            if seed != wanted:
                raise folders.ArtefactError(
                    f"{notebook} in {run_dir} ran with seed {seed}, not {wanted}: say -p seed {seed}, here and in {before}, "
                    "or use another run directory."
                )
            steps.append((notebook, "keep", run_dir))
        else:
            for folder in sources if notebook in COPIED else ():
                why = unusable(notebook, folder, checked[notebook])
                if not why and follows(notebook, folder):
                    source = folder
                    break
                if (folder / notebook).exists():
                    print(
                        f"not from {folder}: {why or f'its {notebook} was made from other results than these'}",
                        flush=True,
                    )
            steps.append((notebook, "copy" if source else "run", source))
        where = steps[-1][2]
        made[notebook] = manifests.read_manifest(where, notebook)["results"] if where else None
    return steps


def seconds(notebook, runs):
    """Seconds (float) that `notebook` took in the first of the run directories `runs` that has it, else in the README's table."""
    for folder in runs:
        try:
            return manifests.read_manifest(folder, notebook)["seconds"]
        except (folders.ArtefactError, KeyError):
            continue
    table = (folders.REPOSITORY / "README.md").read_text(encoding="utf-8")
    return float(re.search(rf"^\| {notebook} \| (\d+) \|", table, re.MULTILINE).group(1))


def copy(notebook, source, run_dir):
    """Copy the result of `notebook` from the run directory `source` into `run_dir` (Paths); what is in its place is put aside."""
    target = run_dir / notebook
    if target.exists():
        folders.hold(target).release(force=True)  # or its kernel is still at work
        aside = next(
            path for n in range(1, 1000) if not (path := run_dir / f"{notebook}.aside-{n}").exists()
        )
        os.replace(target, aside)
        print(f"what was in {notebook} is now in {aside.name}", flush=True)
    grid.copy(notebook, source, run_dir)


def fill_in(before, run_dir="", from_run="", arguments=()):
    """Fill in what comes before the notebook `before`, e.g. "04". Prints what it will do and what it did.

    run_dir: as in the notebooks; from_run: a finished run to copy from; arguments: `--params` and `-p` as for helpers.run.
    Raises what `run.course` raises, and ArtefactError when another process is at work in the run directory.
    """
    options = run.parse(
        ["--run-dir", str(run_dir), "--from", before, "--until", before, *arguments]
    )
    before = run.selection(options)[0]
    checked = run.settings(run.overrides(options))
    if from_run and not Path(from_run).expanduser().is_dir():
        raise run.UsageError(f"--from-run {from_run}: there is no such folder.")
    folders = (
        [from_run]
        if from_run
        else [folders.REPOSITORY / "runs" / name for name in ("finished", "default")]
    )
    target, lock = run.taken(run_dir)
    try:
        sources = [
            path
            for path in (Path(folder).expanduser().resolve() for folder in folders)
            if path.is_dir() and path != target
        ]
        steps = plan(before, target, sources, checked)
        todo = [notebook for notebook, action, _ in steps if action == "run"]
        estimates = {notebook: seconds(notebook, [target, *sources]) for notebook in todo}
        print(f"To start at {before} in {target}:")
        for notebook, action, source in steps:
            how = {"keep": "is there, kept", "copy": f"copied from {source}"}.get(
                action
            ) or f"run, about {estimates[notebook]:.0f} s"
            print(f"  {notebook:<22}{how}")
        total = sum(estimates.values())
        print(
            f"This takes about {total / 60:.0f} minutes."
            if total > 90
            else "This takes a minute or two."
            if todo
            else "This takes a few seconds.",
            flush=True,
        )
        start = time.monotonic()
        for notebook, action, source in steps:
            if action == "copy":
                copy(notebook, source, target)
    finally:
        lock.release(force=True)
    if todo:
        run.course(
            run.parse(
                ["--run-dir", str(target), "--from", todo[0], "--until", todo[-1], *arguments]
            )
        )
    done = {
        action: [notebook for notebook, each, _ in steps if each == action]
        for action in ("keep", "copy", "run")
    }
    said = [
        f"{word} {', '.join(done[action])}"
        for action, word in (("keep", "kept"), ("copy", "copied"), ("run", "ran"))
        if done[action]
    ]
    print(
        f"{'; '.join(said) or 'nothing to fill in'}, in {time.monotonic() - start:.1f} s. {before} can start.",
        flush=True,
    )


def main(arguments=None):
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m course catch-up", description="Fill in what comes before a notebook."
    )
    parser.add_argument(
        "before",
        choices=[name[:2] for name in parameters.NOTEBOOKS],
        help="the notebook to start at",
    )
    parser.add_argument(
        "--run-dir", default="", help="the run directory to fill (default: runs/default)"
    )
    parser.add_argument("--from-run", default="", metavar="DIR", help="a finished run to copy from")
    parser.add_argument("--params", metavar="FILE.yaml", help="as for helpers.run")
    parser.add_argument(
        "-p",
        nargs=2,
        metavar=("NAME", "VALUE"),
        action="append",
        default=[],
        help="as for helpers.run",
    )
    options = parser.parse_args(arguments)
    further = [
        *(["--params", options.params] if options.params else []),
        *(word for pair in options.p for word in ("-p", *pair)),
    ]
    return run.exit_code(
        lambda: fill_in(options.before, options.run_dir, options.from_run, further), options.run_dir
    )


if __name__ == "__main__":
    sys.exit(main())
