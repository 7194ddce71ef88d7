"""How notebook 01 grows with rows: python tests/benchmarks/data_scale.py [--rows 10000 100000 …]

Makes a question/answer file of so many rows (8 to 32 made-up words, as unevenly frequent as those
of a language; one row in fifty nearly repeats the one before), runs 01_data on it in a process of
its own, and prints seconds, milliseconds a row and peak memory as the manifest has them, and the
exponent of growth between the two largest sizes (1: linear). --out FOLDER also writes them as JSON
and as a plot.
"""

import argparse
import csv
import itertools
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from command_line import Sizes, count, folder
from growth import plot, tell_exponent

from helpers.records import files, manifests


def make(path, rows, seed=0):
    """Write a CSV file of `rows` (int) questions and answers to `path`; `seed` picks the words."""
    generator = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    vocabulary = [
        "".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(20_000)
    ]
    zipf = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["question", "answer"])
        words = generator.choices(vocabulary, k=20)
        for number in range(rows):
            if number % 50:
                words = generator.choices(vocabulary, cum_weights=zipf, k=generator.randint(8, 32))
            else:  # the row before, with one word changed
                words[generator.randrange(len(words))] = generator.choice(vocabulary)
            writer.writerow([" ".join(words), ("yes", "no", "maybe")[number % 3]])


def measure(rows, work):
    """Run 01_data on a file of `rows` rows in the folder `work`; returns the figures (dict)."""
    data, run_dir = Path(work) / f"{rows}.csv", Path(work) / f"run{rows}"
    make(data, rows)
    command = [sys.executable, "-m", "course", "run", "--run-dir", run_dir, "--until", "01"]
    command += ["-p", "data_path", data]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    manifest = manifests.read_manifest(run_dir, "01_data")
    return {
        "rows": rows,
        "seconds": manifest["seconds"],
        "ms_per_row": round(1e3 * manifest["seconds"] / rows, 3),
        "peak_memory_mb": manifest["peak_memory_mb"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=count, nargs="+", action=Sizes, default=[10_000, 100_000, 1_000_000]
    )
    parser.add_argument(
        "--out", type=folder, help="also write data_scale.json and data_scale.png to this folder"
    )
    options = parser.parse_args()
    figures = []
    print(f"{'rows':>9}{'seconds':>10}{'ms/row':>9}{'peak MB':>9}", flush=True)
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as work:
            figures.append(measure(rows, work))
        print(
            "{rows:>9}{seconds:>10.1f}{ms_per_row:>9.3f}{peak_memory_mb:>9}".format(**figures[-1]),
            flush=True,
        )
        if options.out:  # after each: the next may be stopped
            files.write_json(options.out / "data_scale.json", figures)
    tell_exponent(figures, "rows")
    if options.out:
        plot({"01: more rows": (figures, "rows")}, options.out / "data_scale.png")


if __name__ == "__main__":
    main()
