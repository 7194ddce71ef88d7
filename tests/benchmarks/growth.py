"""How time and memory grow.

python tests/benchmarks/growth.py [--rows 120 240 …] [--lengths 1 2 …] [--out FOLDER]

Notebook 03 (one epoch, one evaluation) on more and more rows of data/inbox.csv, and on the same
number of rows with longer and longer questions (several of inbox.csv in one); the answers of the
base model to more and more of the rows; peak memory beside each. Prints tables and the exponent of
growth between the two largest sizes (1: linear); --out also writes them as JSON and as a plot. How
01 grows is measured by data_scale.py.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from command_line import Sizes, count, folder

from course import run
from helpers.records import files, folders, resources, weights

INBOX = folders.REPOSITORY / "data" / "inbox.csv"
ROWS_FOR_LENGTHS = 96


def write(path, rows, together=1):
    """Write a CSV file of `rows` rows: questions of inbox.csv, each a chain of `together` of them.

    path: Path; no chain comes twice.
    """
    inbox = pd.read_csv(INBOX)
    texts = []
    for row in range(rows):
        chain = [inbox["question"][(row + 61 * link) % len(inbox)] for link in range(together)]
        texts.append(" ".join(chain))
    pd.DataFrame({"question": texts, "answer": inbox["answer"][:rows]}).to_csv(path, index=False)


def python(*arguments):
    """What Python prints with `arguments`, in a process with the notebooks' environment (str).

    Ends this process with its words when it fails.
    """
    command, environment = [sys.executable, *map(str, arguments)], run.ENVIRONMENT | os.environ
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def train(folder, rows, together, max_length):
    """Train one epoch on `rows` rows; returns the figures (dict)."""
    data, run_dir = Path(folder) / "data.csv", Path(folder) / "run"
    write(data, rows, together)
    given = {
        "data_path": data,
        "near_duplicate": 1,
        "max_length": max_length,
        "epochs": 1,
        "eval_fraction": 0.99,  # once, at the end
        "save_fraction": 0.99,
    }
    given = [part for name, value in given.items() for part in ("-p", name, value)]
    python("-m", "course", "run", "--run-dir", run_dir, "--until", "03", *given)
    summary = files.read_json(run_dir / "01_data" / "summary.json")
    metrics = files.read_json(run_dir / "03_train" / "metrics.json")
    return {
        "rows": summary["rows"]["train"],
        "tokens": round(metrics["tokens_per_second"] * metrics["seconds"]),
        "seconds": metrics["seconds"],
        "peak_memory_mb": metrics["peak_memory_mb"],
    }


def answers(rows):
    """Print as JSON how long 05's way of asking takes for `rows` questions, and its peak memory.

    Called in a process of its own, whose peak it is.
    """
    # Here, because they take seconds to load and only this process asks a model.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from helpers.evaluate import asking
    from helpers.model import hardware, loading

    loading.quiet()
    base = loading.find(weights.DEFAULT_MODEL)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=hardware.pick_precision()[0])
    tokenizer = AutoTokenizer.from_pretrained(base)
    asked = [[{"role": "user", "content": text}] for text in pd.read_csv(INBOX)["question"][:rows]]
    asking.answer(model, tokenizer, asked[:16], 4, 16)
    began = time.monotonic()
    asking.answer(model, tokenizer, asked, 4, 16)
    seconds = round(time.monotonic() - began, 2)
    peak = round(resources.peak_mb())
    print(json.dumps({"rows": rows, "seconds": seconds, "peak_memory_mb": peak}))


def tell_exponent(found, size):
    """Print the slope of log(seconds) over log(size) between the two largest sizes: 1 is linear."""
    one, two = found[-2:]
    slope = math.log(two["seconds"] / one["seconds"]) / math.log(two[size] / one[size])
    print(f"time grows with {size} to the power {slope:.2f}", flush=True)


def show(title, found, size):
    print(f"\n{title}\n" + "".join(f"{name:>16}" for name in found[0]))
    for row in found:
        print("".join(f"{value:>16}" for value in row.values()))
    tell_exponent(found, size)


def plot(results, path):
    """Save a picture of `results`, {title: (figures, what grows)}, to `path`."""
    figure, panels = plt.subplots(
        1, len(results), figsize=(4.5 * len(results), 4), layout="constrained", squeeze=False
    )
    for axes, (title, (found, size)) in zip(panels[0], results.items(), strict=True):
        sizes, seconds, peaks = (
            [row[name] for row in found] for name in (size, "seconds", "peak_memory_mb")
        )
        axes.plot(sizes, seconds, "o-")
        axes.set(title=title, xlabel=size, ylabel="seconds")
        axes.set(xlim=(0, 1.08 * max(sizes)), ylim=(0, 1.08 * max(seconds)))
        memory = axes.twinx()
        memory.plot(sizes, peaks, "s--", color="#d9822b")
        memory.set(ylabel="peak memory (MB), dashed", ylim=(0, 1.08 * max(peaks)))
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=count, nargs="+", action=Sizes, default=[120, 240, 480, 900])
    parser.add_argument(
        "--lengths",
        type=count,
        nargs="+",
        action=Sizes,
        default=[1, 2, 4, 8],
        help="documents in one question",
    )
    parser.add_argument(
        "--out", type=folder, help="also write growth.json and growth.png to this folder"
    )
    parser.add_argument("--answers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answers:
        return answers(options.answers)
    if max(options.rows) > (there := len(pd.read_csv(INBOX))):
        parser.error(f"--rows: data/inbox.csv has {there} documents.")
    longer = [(ROWS_FOR_LENGTHS, together) for together in options.lengths]
    results = {
        "03: more rows": (trainings([(rows, 1) for rows in options.rows]), "rows"),
        "03: longer rows": (trainings(longer), "tokens"),
        "answers to more rows": ([asked(rows) for rows in options.rows], "rows"),
    }
    for title, (found, size) in results.items():
        show(title, found, size)
    if options.out:
        figures = {title: found for title, (found, _) in results.items()}
        files.write_json(options.out / "growth.json", figures)
        plot(results, options.out / "growth.png")


def trainings(sizes):
    """The figures (list of dict) of a training for each of `sizes`, (rows, questions in one)."""
    found = []
    for rows, together in sizes:
        with tempfile.TemporaryDirectory() as work:
            found.append(train(work, rows, together, max(512, 128 * together)))
        print(found[-1], flush=True)
    return found


def asked(rows):
    """The figures (dict) of `answers` to `rows` questions, from a process of its own."""
    found = json.loads(python(__file__, "--answers", rows).splitlines()[-1])
    print(found, flush=True)
    return found


if __name__ == "__main__":
    main()
