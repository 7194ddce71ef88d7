"""Kill the course at random moments and start it again: does it end like one never stopped?

python tests/benchmarks/kills.py [--kills 50] [--seed 1] [--work DIR] [--out FILE.json]

A kill is SIGKILL for the runner or for its kernel, in turns. Runs on a tiny random model; prints
one line a kill and whether the adapter, predictions and metrics (without times and memory) are the
same bytes. Linux and macOS.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
from command_line import count, file, folder

from helpers.model import default_model
from helpers.records import files

MEASURED = (
    "seconds",
    "peak",
    "memory",
    "tokens_per_second",
    "per_second",
    "runtime",
    "flos",
    "train_loss",
)
RESULTS = (
    "01_data/train.jsonl",
    "02_quantize_and_lora/adapter_config.json",
    "03_train/adapter/adapter_model.safetensors",
    "03_train/adapter/adapter_config.json",
    "03_train/metrics.json",
    "04_merge_push/merged/model.safetensors",
    "05_evaluate/predictions.jsonl",
    "05_evaluate/metrics.json",
)


def tiny_course(folder):
    """Write a tiny random model and 60 rows to `folder` (Path); returns the runner's arguments."""
    # Here, because it takes seconds to load and a wrong option should be refused at once.
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    tokenizer = AutoTokenizer.from_pretrained(default_model.fetch())
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        f"{'good' if i % 2 else 'bad'} thing number {i},{'up' if i % 2 else 'down'}"
        for i in range(60)
    ]
    (folder / "mine.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    given = {
        "data_path": folder / "mine.csv",
        "model_id": folder / "model",
        "epochs": 4,
        "batch_size": 4,
        "lora_dropout": 0.1,
        "save_fraction": 0.1,
        "eval_fraction": 0.25,
        "few_shot": 2,
        "bootstrap_samples": 100,
    }
    return [str(part) for name, value in given.items() for part in ("-p", name, value)]


def without_times(value):
    """`value`, as read from JSON, without entries that hold times or memory."""
    if isinstance(value, list):
        return [without_times(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_times(each)
        for key, each in value.items()
        if not any(word in key for word in MEASURED)
    }


def results(run_dir):
    """{file: SHA-256} of what must not depend on interruptions, in a run directory (Path)."""
    found = {}
    for name in RESULTS:
        path = run_dir / name
        if path.is_file():
            content = path.read_bytes()
            if path.name == "metrics.json":
                content = json.dumps(without_times(json.loads(content)), sort_keys=True).encode()
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def start(arguments, run_dir, log):
    """Start the runner on `run_dir`; returns the process."""
    command = [sys.executable, "-m", "course", "run", "--run-dir", str(run_dir), *arguments]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def kill(process, target):
    """SIGKILL for the "runner" or its "kernel"; waits until both are gone.

    Where there is no kernel yet, the runner is killed. Returns the runner's exit code and the ids
    of kernels that are still there.
    """

    def is_kernel(child):
        try:
            return "ipykernel_launcher" in " ".join(child.cmdline())
        except psutil.Error:  # just gone
            return False

    kernels = [
        child for child in psutil.Process(process.pid).children(recursive=True) if is_kernel(child)
    ]
    (kernels[0] if target == "kernel" and kernels else process).send_signal(signal.SIGKILL)
    code = process.wait(timeout=120)
    psutil.wait_procs(kernels, timeout=30)
    return code, [kernel.pid for kernel in kernels if kernel.is_running()]


def moments_to_kill(count, longest, seed):
    """Yield (target, seconds to wait) for each of `count` kills, then None for ever."""
    draw = random.Random(seed)
    for number in range(count):
        yield ("runner", "kernel")[number % 2], draw.uniform(1, longest)
    while True:
        yield None, None


def run_with_kills(begin, run_dir, moments, kills):
    """Run the course on `run_dir` (Path) until it comes to its end. Returns its exit code.

    begin: function that starts the runner on a run directory; moments: as from `moments_to_kill`;
    kills: list of dict, to which every kill is added.
    """
    while True:
        target, seconds = next(moments)
        process = begin(run_dir)
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            reached = max((p.stem for p in (run_dir / "notebooks").glob("*.ipynb")), default="-")
            _, alive = kill(process, target)
        about = {"run": run_dir.name, "target": target, "after": round(seconds, 1)}
        kills.append({**about, "notebook": reached, "still_alive": alive})
        print(f"{len(kills):>4} {target:<7} {seconds:>8.1f}  {reached} {alive or ''}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=count, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", default="05")
    parser.add_argument(
        "--longest",
        type=float,
        default=0,
        help="seconds before a kill, at most; 0: a third of the run",
    )
    parser.add_argument("--work", type=folder, default=None)
    parser.add_argument("--out", type=file, default=None)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="kills-"))
    arguments = [*tiny_course(work), "--until", options.until]
    with open(work / "log.txt", "a") as log:
        begin = partial(start, arguments, log=log)
        began = time.monotonic()
        if begin(work / "unbroken").wait():
            raise SystemExit(f"The unbroken run failed: {work / 'log.txt'}")
        longest = options.longest or (time.monotonic() - began) / 3
        moments = moments_to_kill(options.kills, longest, options.seed)
        expected = results(work / "unbroken")
        print(f"{'kill':>4} {'target':<7} {'after, s':>8}  notebook", flush=True)
        kills, ends = [], []
        while len(kills) < options.kills:
            run_dir = work / f"broken-{len(ends) + 1}"
            code = run_with_kills(begin, run_dir, moments, kills)
            found = results(run_dir)
            different = [name for name in expected if found.get(name) != expected[name]]
            ends.append({"run": run_dir.name, "code": code, "different": different})
            said = f"DIFFERENT: {different}" if different else f"{len(found)} files the same"
            print(f"{run_dir.name}: exit code {code}, {said}", flush=True)
    wrong = [end for end in ends if end["different"] or end["code"]]
    if options.out:
        files.write_json(options.out, kills + wrong)
    wrong += [kill for kill in kills if kill["still_alive"]]
    print(f"{options.kills} kills over {len(ends)} runs; {len(wrong)} things went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
