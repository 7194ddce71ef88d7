"""Many runs from a file with lists of values: a sub-folder each, a table and a plot over all."""

import hashlib
import itertools
import os
import re
import shutil
import sys

from helpers.records import files, manifests, parameters

COPIED = ("01_data", "02_quantize_and_lora", "03_train")


def combinations(lists):
    """Every combination of the values in {name: value or list of values} (list of dict), in order.

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
    """Copy the result of `notebook` from the run directory `source` into `run_dir`, which has none.

    It appears there whole.
    """
    part = run_dir / f".{notebook}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source / notebook, part, ignore=shutil.ignore_patterns(".*", "checkpoints"))
    os.replace(part, run_dir / notebook)


def reuse(run_dir, earlier, notebooks, checked):
    """Copy into `run_dir` the first steps that would come out the same as in one of `earlier`.

    All are Paths; notebooks: those to be run; checked: {notebook: parameters}. Returns None.
    """
    for notebook in COPIED:
        if notebook not in notebooks or _is_current(notebook, run_dir, checked):
            continue
        source = next((done for done in earlier if _is_current(notebook, done, checked)), None)
        if source is None or (run_dir / notebook).exists():
            return
        copy(notebook, source, run_dir)
        print(f"{notebook}: the same as in {source.name}, copied", flush=True)


def _is_current(notebook, run_dir, checked):
    return manifests.is_current(notebook, run_dir, checked[notebook])


def run(lists, root, run_one):
    """One run for each combination, in sub-folders of `root`; returns the exit code.

    lists: {name: value or list of values}; run_one: function from a combination ({name: value}),
    its run directory (Path) and those of the runs that are done to ("done", "refused" or "failed",
    reason or ""). Writes grid.csv and grid.png into `root`. The exit code is 1 when a run was not
    done.
    """
    import pandas as pd  # here, because it takes half a second, and only grids need it

    every = combinations(lists)
    rows, done = [], []
    for number, combination in enumerate(every, start=1):
        name = folder_name(combination, lists)
        print(f"\nrun {number} of {len(every)}: {name}", flush=True)
        state, reason = run_one(combination, root / name, done)
        if state == "done":
            done.append(root / name)
        else:
            print(f"{state}: {reason}", file=sys.stderr, flush=True)
        varied = {key: value for key, value in combination.items() if isinstance(lists[key], list)}
        measured = figures(root / name) if state == "done" else {}
        reason = reason.replace("\n", " ")
        rows.append({"run": name, **varied, "state": state, **measured, "reason": reason})
        table = pd.DataFrame(rows)
        # After every run, so that an interrupted grid keeps its table.
        files.write_text(root / "grid.csv", table.to_csv(index=False, lineterminator="\n"))
    plot(table, root / "grid.png")
    print("\n" + table.drop(columns="reason").to_string(index=False))
    not_done = int((table["state"] != "done").sum())
    print(
        f"\n{len(table) - not_done} of {len(table)} runs done. The table is in {root / 'grid.csv'}"
    )
    return 1 if not_done else 0


def figures(run_dir):
    """Figures of a finished run as {column: number}.

    They are validation loss, accuracy on the validation and on the test rows, seconds; not those
    made from earlier results than are there now.
    """
    current = [name for name in parameters.NOTEBOOKS if manifests.follows(name, run_dir)]
    found = {}
    if "03_train" in current:
        training = files.read_json(run_dir / "03_train" / "metrics.json")
        found["validation_loss"] = training["final_validation_loss"]
    if "04_merge_push" in current:
        merging = files.read_json(run_dir / "04_merge_push" / "merge_check.json")
        found["validation_accuracy"] = merging["adapter_accuracy"]
    if "05_evaluate" in current:
        evaluation = files.read_json(run_dir / "05_evaluate" / "metrics.json")
        merged = evaluation["systems"]["merged"]
        found["test_accuracy"] = merged["accuracy"]
        found["low"], found["high"] = merged["ci95"]
    seconds = [manifests.read_manifest(run_dir, name)["seconds"] for name in current]
    return {**found, "seconds": round(sum(seconds), 1)}


def plot(table, path):
    """Save a plot of the runs in `table` (DataFrame from `run`); returns None.

    It shows test accuracy with its interval, else validation loss, else there is no plot.
    """
    from matplotlib.figure import Figure  # here, for the reason that pandas is

    measure = next((name for name in ("test_accuracy", "validation_loss") if name in table), None)
    if measure is None:
        return
    rows = table.dropna(subset=[measure]).iloc[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(rows)), layout="tight")
    axes = figure.subplots()
    if measure == "test_accuracy":
        interval = [rows[measure] - rows["low"], rows["high"] - rows[measure]]
        label = "accuracy of the merged model on the test rows, 95 % interval"
    else:
        interval, label = None, "final validation loss, nats per token"
    axes.errorbar(rows[measure], rows["run"], xerr=interval, fmt="o", capsize=3)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
