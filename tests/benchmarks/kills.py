"""Kill the course at random moments, start it again, and compare the end with a run that was never stopped.

python tests/benchmarks/kills.py [--kills 50] [--seed 1] [--work DIR] [--out FILE.json]

A kill is SIGKILL for the runner or for its kernel, in turns. Runs on a tiny random model; prints one line a kill and
whether the adapter, predictions and metrics (without times and memory) are the same bytes. Linux and macOS.
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
from pathlib import Path

import psutil
from command_line import count, file, folder

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
    """Write a tiny random model and 60 rows to `folder` (Path); returns the runner's arguments for them."""
    from helpers.model import default_model, loading

    loading.quiet()  # before transformers looks for bitsandbytes
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    tokenizer = AutoTokenizer.from_pretrained(default_model.fetch())
    set_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
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
    ).save_pretrained(folder / "model")
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


def results(run_dir):
    """{file: SHA-256} of what must not depend on interruptions; times and memory are taken out of the metrics."""

    def without_times(value):
        if isinstance(value, dict):
            return {
                k: without_times(v)
                for k, v in value.items()
                if not any(word in k for word in MEASURED)
            }
        return [without_times(v) for v in value] if isinstance(value, list) else value

    found = {}
    for name in RESULTS:
        path = run_dir / name
        if path.is_file():
            whole = path.read_bytes()
            text = (
                json.dumps(without_times(json.loads(whole)), sort_keys=True).encode()
                if path.name == "metrics.json"
                else whole
            )
            found[name] = hashlib.sha256(text).hexdigest()
    return found


def start(arguments, run_dir, log):
    """Start the runner on `run_dir`; returns the process."""
    command = [sys.executable, "-m", "course", "run", "--run-dir", str(run_dir), *arguments]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def kill(process, target):
    """SIGKILL for the "runner" or its "kernel" (the runner, when there is none yet); waits until both are gone."""

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
        begin = time.monotonic()
        if start(arguments, work / "unbroken", log).wait():
            raise SystemExit(f"The unbroken run failed: {work / 'log.txt'}")
        longest = options.longest or (time.monotonic() - begin) / 3
        draw, expected, table, broken = (
            random.Random(options.seed),
            results(work / "unbroken"),
            [],
            0,
        )
        print(f"{'kill':>4} {'run':>4} {'target':<7} {'after, s':>8}  notebook", flush=True)
        while len(table) < options.kills:
            broken += 1
            run_dir = work / f"broken-{broken}"
            while True:
                process, target = (
                    start(arguments, run_dir, log),
                    ("runner", "kernel")[len(table) % 2],
                )
                try:
                    after = draw.uniform(1, longest)
                    if len(table) >= options.kills:
                        after = None
                    code = process.wait(timeout=after)
                except subprocess.TimeoutExpired:
                    reached = max(
                        (p.stem for p in (run_dir / "notebooks").glob("*.ipynb")), default="-"
                    )
                    _, alive = kill(process, target)
                    table.append(
                        {
                            "run": broken,
                            "target": target,
                            "after": round(after, 1),
                            "notebook": reached,
                            "still_alive": alive,
                        }
                    )
                    print(
                        f"{len(table):>4} {broken:>4} {target:<7} {after:>8.1f}  {reached} {alive or ''}",
                        flush=True,
                    )
                    continue
                break
            got = results(run_dir)
            wrong = [name for name in expected if got.get(name) != expected[name]]
            print(
                f"run {broken}: exit code {code}, "
                + (f"DIFFERENT: {wrong}" if wrong else f"{len(got)} files the same"),
                flush=True,
            )
            table.append(
                {"run": broken, "code": code, "different": wrong}
            ) if wrong or code else None
    if options.out:
        files.write_json(options.out, table)
    failed = [
        row for row in table if row.get("different") or row.get("code") or row.get("still_alive")
    ]
    print(f"{options.kills} kills over {broken} runs; {len(failed)} things went wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
