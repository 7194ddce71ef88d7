"""How long the whole course takes.

python tests/benchmarks/whole_course.py [--rounds 1] [--out FILE.json] [-p NAME VALUE …]

The runner on all five notebooks, each round in a run directory of its own that is removed
afterwards. Prints the seconds and the peak memory of each notebook as its manifest has them, and of
the whole command, kernels' starts included: the median of the rounds, and in brackets from the
least to the most. What this command does not know goes to the runner: `-p precision float32` shows
a machine without fast bfloat16, `-p max_rows 200` a shorter course.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from command_line import count, file

from helpers.records import files, manifests, parameters

WHOLE = "the whole course"


def once(arguments):
    """Run the course with the runner's `arguments` (list of str).

    Returns {notebook or WHOLE: (seconds, peak memory in MB)}. Ends this process when a run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "course", "run", *arguments, "--run-dir", folder]
        began = time.monotonic()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        seconds = time.monotonic() - began
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            sys.exit(done.returncode)
        found = {}
        for name in parameters.NOTEBOOKS:
            manifest = manifests.read_manifest(Path(folder), name)
            found[name] = manifest["seconds"], manifest["peak_memory_mb"]
    return found | {WHOLE: (seconds, max(peak for _, peak in found.values()))}


def spread(values):
    """Median of `values` and, in brackets, from the least to the most (str)."""
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--rounds", type=count, default=1, help="times the course is run (default 1)"
    )
    parser.add_argument("--out", type=file, help="also write the figures to this JSON file")
    options, others = parser.parse_known_args()
    rounds = [once(others) for _ in range(options.rounds)]
    found = {}
    print(f"{'notebook':24}{'seconds':>26}{'peak MB':>26}")
    for name in rounds[0]:
        seconds, peaks = zip(*(one[name] for one in rounds), strict=True)
        found[name] = {"seconds": seconds, "peak_memory_mb": peaks}
        print(f"{name:24}{spread(seconds):>26}{spread(peaks):>26}")
    if options.out:
        files.write_json(
            options.out, {"arguments": others, "rounds": options.rounds, "figures": found}
        )


if __name__ == "__main__":
    main()
