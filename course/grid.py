"""Many runs from one file with lists of values: a sub-folder for each combination, a table and a plot over all."""

import hashlib
import itertools
import os
import re
import shutil
import sys

from helpers.records import files, manifests, parameters

COPIED = ("01_data", "02_quantize_and_lora", "03_train")


def combinations(lists):
    """Every combination of the values in {name: value or list of values}, in the file's order, as dicts.

    Raises ParameterError for an empty list.
    """
    values = {name: value if isinstance(value, list) else [value] for name, value in lists.items()}
    for name, choices in values.items():
        if not choices:
            raise parameters.ParameterError(
                f"{name} in the grid was an empty list, but it should hold at least one value."
            )
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


def folder_name(combination, lists):
    """A folder name (str) that says which values of the lists a run has, e.g. `lora_r=8,seed=1`."""
    varied = [f"{name}={combination[name]}" for name in lists if isinstance(lists[name], list)]
    text = ",".join(varied) or "single"
    safe = re.sub(r"[^\w.,=+-]", "_", text)[:100]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def copy(notebook, source, run_dir):
    """Copy the result of `notebook` from the run directory `source` into `run_dir`, which has none; it appears whole."""
    part = run_dir / f".{notebook}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source / notebook, part, ignore=shutil.ignore_patterns(".*", "checkpoints"))
    os.replace(part, run_dir / notebook)


def reuse(run_dir, earlier, chosen, checked):
    """Copy from the run directories `earlier` the first steps that would come out the same in `run_dir`. Returns None."""
    for notebook in (name for name in COPIED if name in chosen):
        target = run_dir / notebook
        if manifests.is_current(notebook, run_dir, checked[notebook]):
            continue
        source = next(
            (d for d in earlier if manifests.is_current(notebook, d, checked[notebook])), None
        )
        if source is None or target.exists():
            return
        copy(notebook, source, run_dir)
        print(f"{notebook}: the same as in {source.name}, copied", flush=True)


def run(lists, root, attempt):
    """One run for each combination, in sub-folders of `root`; writes grid.csv and grid.png there, returns the exit code.

    lists: {name: value or list of values}; attempt: function from a combination ({name: value}), its run directory (Path)
    and those of the runs that are done to ("done", "refused" or "failed", reason or ""). The exit code is 1 when a run
    was not done.
    """
    import pandas as pd

    chosen = combinations(lists)
    table, done = [], []
    for number, combination in enumerate(chosen, start=1):
        name = folder_name(combination, lists)
        print(f"\nrun {number} of {len(chosen)}: {name}", flush=True)
        state, reason = attempt(combination, root / name, done)
        if state == "done":
            done.append(root / name)
        else:
            print(f"{state}: {reason}", file=sys.stderr, flush=True)
        varied = {key: value for key, value in combination.items() if isinstance(lists[key], list)}
        found = figures(root / name) if state == "done" else {}
        table.append(
            {"run": name, **varied, "state": state, **found, "reason": reason.replace("\n", " ")}
        )
        frame = pd.DataFrame(table)
        frame.to_csv(
            root / "grid.csv.part", index=False
        )  # after every run: an interrupted grid keeps its table
        os.replace(root / "grid.csv.part", root / "grid.csv")
    plot(frame, root / "grid.png")
    print("\n" + frame.drop(columns="reason").to_string(index=False))
    lost = int((frame["state"] != "done").sum())
    print(f"\n{len(frame) - lost} of {len(frame)} runs done. The table is in {root / 'grid.csv'}")
    return 1 if lost else 0


def figures(run_dir):
    """Figures of a finished run as {column: number}: validation loss, accuracy on the validation and the test rows, seconds."""
    found, seconds = {}, 0.0
    training, evaluation = (
        run_dir / "03_train" / "metrics.json",
        run_dir / "05_evaluate" / "metrics.json",
    )
    merging = run_dir / "04_merge_push" / "merge_check.json"
    current = {
        notebook for notebook in parameters.NOTEBOOKS if manifests.follows(notebook, run_dir)
    }  # not of earlier results
    if "03_train" in current:
        found["validation_loss"] = files.read_json(training)["final_validation_loss"]
    if "04_merge_push" in current:
        found["validation_accuracy"] = files.read_json(merging)["adapter_accuracy"]
    if "05_evaluate" in current:
        merged = files.read_json(evaluation)["systems"]["merged"]
        found |= {
            "test_accuracy": merged["accuracy"],
            "low": merged["ci95"][0],
            "high": merged["ci95"][1],
        }
    for notebook in current:
        seconds += manifests.read_manifest(run_dir, notebook)["seconds"]
    return found | {"seconds": round(seconds, 1)}


def plot(frame, path):
    """Save a plot of the runs in `frame` (from `run`): test accuracy with its interval, else validation loss. Returns None."""
    from matplotlib.figure import Figure

    measure = next((name for name in ("test_accuracy", "validation_loss") if name in frame), None)
    if measure is None:
        return
    rows = frame.dropna(subset=[measure]).iloc[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(rows)), layout="tight")
    axes = figure.subplots()
    spread = (
        [rows[measure] - rows["low"], rows["high"] - rows[measure]]
        if measure == "test_accuracy"
        else None
    )
    axes.errorbar(rows[measure], rows["run"], xerr=spread, fmt="o", capsize=3)
    axes.set_xlabel(
        "accuracy of the merged model on the test rows, 95 % interval"
        if spread
        else "final validation loss, nats per token"
    )
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
