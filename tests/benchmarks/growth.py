"""How time and memory grow: python tests/benchmarks/growth.py [--rows 120 240 …] [--lengths 1 2 …] [--out FOLDER]

Notebook 03 (one epoch, one evaluation) on more and more rows of data/inbox.csv, and on the same number of rows with longer
and longer questions (several of inbox.csv in one); the answers of the base model to more and more of the rows; peak
memory beside each. Prints tables and the exponent of growth between the two largest sizes (1: linear); --out also writes
them as JSON and as a plot. How 01 grows is measured by data_scale.py.
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

from command_line import Sizes, count, folder

from course import run
from helpers.records import files, folders

INBOX = folders.REPOSITORY / "data" / "inbox.csv"
ROWS_FOR_LENGTHS = 96


def write(path, rows, together=1):
    """Write a CSV file of `rows` rows: questions of inbox.csv, `together` of them in one, each combination once."""
    import pandas as pd

    inbox = pd.read_csv(INBOX)
    texts = [
        " ".join(inbox["question"][(i + 61 * j) % len(inbox)] for j in range(together))
        for i in range(rows)
    ]
    pd.DataFrame({"question": texts, "answer": inbox["answer"][:rows]}).to_csv(path, index=False)


def python(*arguments):
    """What Python prints with `arguments`, in a process of its own with the notebooks' environment; ends this one with its
    words when it fails."""
    command, environment = [sys.executable, *map(str, arguments)], run.ENVIRONMENT | os.environ
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def train(folder, rows, together, max_length):
    """Train one epoch on `rows` rows; returns the figures (dict)."""
    data, run_dir = Path(folder) / "data.csv", Path(folder) / "run"
    write(data, rows, together)
    python(
        "-m",
        "course",
        "run",
        "--run-dir",
        run_dir,
        "--until",
        "03",
        "-p",
        "data_path",
        data,
        "-p",
        "near_duplicate",
        1,
        "-p",
        "max_length",
        max_length,
        "-p",
        "epochs",
        1,
        "-p",
        "eval_fraction",
        0.99,
        "-p",
        "save_fraction",
        0.99,
    )  # once, at the end
    summary = files.read_json(run_dir / "01_data" / "summary.json")
    metrics = files.read_json(run_dir / "03_train" / "metrics.json")
    return {
        "rows": summary["rows"]["train"],
        "tokens": round(metrics["tokens_per_second"] * metrics["seconds"]),
        "seconds": metrics["seconds"],
        "peak_memory_mb": metrics["peak_memory_mb"],
    }


def answers(rows):
    """Seconds of 05's way of asking for answers to `rows` questions; printed as JSON, in a process of its own."""
    import pandas as pd
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from helpers.evaluate import asking
    from helpers.model import hardware, loading
    from helpers.records import resources, weights

    loading.quiet()

    base = loading.find(weights.DEFAULT_MODEL)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=hardware.pick_precision()[0])
    tokenizer = AutoTokenizer.from_pretrained(base)
    asked = [[{"role": "user", "content": text}] for text in pd.read_csv(INBOX)["question"][:rows]]
    asking.answer(model, tokenizer, asked[:16], 4, 16)
    began = time.monotonic()
    asking.answer(model, tokenizer, asked, 4, 16)
    seconds = round(time.monotonic() - began, 2)
    print(
        json.dumps({"rows": rows, "seconds": seconds, "peak_memory_mb": round(resources.peak_mb())})
    )


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
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(results), figsize=(4.5 * len(results), 4), layout="constrained", squeeze=False
    )
    for axes, (title, (found, size)) in zip(panels[0], results.items(), strict=True):
        sizes, seconds, peaks = (
            [row[name] for row in found] for name in (size, "seconds", "peak_memory_mb")
        )
        axes.plot(sizes, seconds, "o-")
        axes.set(
            title=title,
            xlabel=size,
            ylabel="seconds",
            xlim=(0, 1.08 * max(sizes)),
            ylim=(0, 1.08 * max(seconds)),
        )
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
    import pandas as pd

    if max(options.rows) > (there := len(pd.read_csv(INBOX))):
        parser.error(f"--rows: data/inbox.csv has {there} documents.")

    results = {}
    for title, sizes, size in (
        ("03: more rows", [(rows, 1) for rows in options.rows], "rows"),
        (
            "03: longer rows",
            [(ROWS_FOR_LENGTHS, together) for together in options.lengths],
            "tokens",
        ),
    ):
        found = []
        for rows, together in sizes:
            with tempfile.TemporaryDirectory() as work:
                found.append(train(work, rows, together, max(512, 128 * together)))
        results[title] = found, size
        show(title, found, size)
    found = []
    for rows in options.rows:
        found.append(json.loads(python(__file__, "--answers", rows).splitlines()[-1]))
    results["answers to more rows"] = found, "rows"
    show("answers to more rows", found, "rows")
    if options.out:
        files.write_json(
            options.out / "growth.json", {title: found for title, (found, _) in results.items()}
        )
        plot(results, options.out / "growth.png")


if __name__ == "__main__":
    main()
