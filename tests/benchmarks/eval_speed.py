"""Speed of 05's answers against the article's.

python tests/benchmarks/eval_speed.py [--rows 150] [--rounds 3]

The models that 05 asks answer the first test rows of a finished run, in turn, in one process and
without a GPU: the merged model, the adapter on its base, the base with the same prompt and with
worked examples. Ours is `asking.answer` with 05's batch size; the fewer rows, the more of the first
round is warming up. The other is the article's transformers `pipeline`, one prompt at a time. Both
in float32 and, where that is another, in the run's precision, with the same longest answer and
greedy choice. (Base and adapter are held as the run holds them. The article also quantizes the
merged model on loading; that is left out, as it changes the answers: see 04.) Both run in the
environment that the runner gives the notebooks (`run.ENVIRONMENT`). In float32 both must give the
same answers, or the command fails; another precision rounds otherwise, so there the share is
printed. While other programs use the machine, the ratios by CPU time are the ones to trust.
"""

import argparse
import os
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from command_line import count, file

from course import run
from helpers.records import files

SYSTEMS = ("merged", "adapter", "base", "base, worked examples")
EXAMPLES = 4  # 05's default


def article(model, tokenizer, prompts, max_new_tokens):
    """Answers (list of str) through `pipeline`, one prompt at a time."""
    from transformers import pipeline

    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, return_full_text=False)
    written = [
        tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    answers = [pipe(text, max_new_tokens=max_new_tokens, do_sample=False) for text in written]
    return [answer[0]["generated_text"].strip() for answer in answers]


def quantization(kind, dtype):
    """The quantization_config of a base that 02 made `kind` (nf4, int8, none).

    dtype: torch dtype that it computes in.
    """
    from transformers import BitsAndBytesConfig

    return {
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
        "none": None,
    }[kind]


def load(run_dir, precision):
    """What 05 asks, as {system: (model, tokenizer, context that switches its adapter off or not)}.

    precision: name of a torch dtype.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from helpers.model import loading

    dtype = getattr(torch, precision)
    given = {
        name: files.read_json(run_dir / name / "manifest.json")["parameters"]
        for name in ("01_data", "02_quantize_and_lora")
    }
    config = quantization(given["02_quantize_and_lora"]["quantization"], dtype)
    merged = run_dir / "04_merge_push" / "merged"
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=dtype).eval()
    adapted, tokenizer = loading.load_adapter(
        run_dir / "03_train" / "adapter", loading.find(given["01_data"]["model_id"]), config, dtype
    )
    adapted.eval()
    found = {"merged": (plain, AutoTokenizer.from_pretrained(merged), nullcontext)}
    return found | {
        name: (
            adapted.get_base_model(),
            tokenizer,
            nullcontext if name == "adapter" else adapted.disable_adapter,
        )
        for name in SYSTEMS[1:]
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=count, default=150, help="test rows to answer (default 150)")
    parser.add_argument(
        "--rounds", type=count, default=3, help="times all sides are run in turn (default 3)"
    )
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="what is asked (default all)"
    )
    parser.add_argument(
        "--batch-size", type=count, default=32, help="of our side (default 32, as in 05)"
    )
    parser.add_argument(
        "--run-dir", default="runs/default", help="a finished run (default runs/default)"
    )
    parser.add_argument("--threads", type=count, help="of torch (default: its own choice)")
    parser.add_argument("--out", type=file, help="also write the figures to this JSON file")
    options = parser.parse_args()
    run_dir = Path(options.run_dir)
    if not (run_dir / "04_merge_push" / "merged").is_dir():
        sys.exit(
            f"{run_dir} has no merged model: run the course up to 04 first (make course), or name "
            "a finished run with --run-dir."
        )
    environment = {**run.ENVIRONMENT, **os.environ, "CUDA_VISIBLE_DEVICES": ""}
    if (
        sys.platform == "linux" and environment != os.environ
    ):  # glibc reads its settings when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    os.environ.update(environment)

    import pandas as pd
    import torch

    from helpers.data import chats
    from helpers.evaluate import asking
    from helpers.model import loading

    loading.quiet()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows, train = (
        chats.read_rows(run_dir / "01_data" / f"{name}.jsonl").to_list()
        for name in ("test", "train")
    )
    if options.rows > len(rows):
        parser.error(f"--rows: {run_dir} has {len(rows)} test rows.")
    prompts = [row["prompt"] for row in rows[: options.rows]]
    labels = files.read_json(run_dir / "01_data" / "summary.json")["labels"]
    examples = asking.pick_examples(pd.DataFrame(train), EXAMPLES, labels, 1)
    asked = {
        name: asking.few_shot_prompts(prompts, examples) if "examples" in name else prompts
        for name in options.systems
    }
    precisions = dict.fromkeys(
        ["float32", files.read_json(run_dir / "03_train" / "metrics.json")["precision"]]
    )
    loaded = {precision: load(run_dir, precision) for precision in precisions}
    longest = asking.room(loaded["float32"]["merged"][1], [row["answer"] for row in train])

    def ask(side, precision, name):
        """Answers (list of str) of one system, and the seconds and CPU seconds they took."""
        model, tokenizer, adapter = loaded[precision][name]
        began, cpu_began = time.monotonic(), time.process_time()
        with adapter():
            if side == "article":
                texts = article(model, tokenizer, asked[name], longest)
            else:
                texts = [
                    row["text"]
                    for row in asking.answer(
                        model, tokenizer, asked[name], longest, options.batch_size
                    )
                ]
        return texts, time.monotonic() - began, time.process_time() - cpu_began

    sides = [(side, precision) for side in ("article", "ours") for precision in precisions]
    found = {
        "rows": len(prompts),
        "batch_size": options.batch_size,
        "threads": torch.get_num_threads(),
        "systems": {},
    }
    seconds, cpu = (
        {one: {side: [] for side in sides} for one in options.systems} for _ in range(2)
    )
    answers = {}
    for _ in range(options.rounds):
        for name in options.systems:
            for side in sides:
                answers[name, side], *durations = ask(*side, name)
                for times, duration in zip((seconds, cpu), durations, strict=True):
                    times[name][side].append(duration)
    every = "all together"
    for times in (seconds, cpu):
        times[every] = {
            side: [
                sum(column)
                for column in zip(*(times[name][side] for name in options.systems), strict=True)
            ]
            for side in sides
        }

    print(
        f"{'':24}{'':19}{'answers/s':>10}{'times the article in float32':>34}"
        f"{'by CPU time':>13}{'same answers':>14}"
    )
    names = [*options.systems, *([every] if len(options.systems) > 1 else [])]
    for name in names:
        for side in sides:
            ratios, cpu_ratios = (
                [
                    a / b
                    for a, b in zip(
                        times[name]["article", "float32"], times[name][side], strict=True
                    )
                ]
                for times in (seconds, cpu)
            )
            among = options.systems if name == every else [name]
            pairs = [
                pair
                for one in among
                for pair in zip(answers[one, sides[0]], answers[one, side], strict=True)
            ]
            figures = {
                "seconds": seconds[name][side],
                "cpu_seconds": cpu[name][side],
                "ratios": ratios,
                "ratio": statistics.median(ratios),
                "cpu_ratio": statistics.median(cpu_ratios),
                "answers_per_second": len(pairs) / statistics.median(seconds[name][side]),
                "identical_answers": sum(a == b for a, b in pairs) / len(pairs),
            }
            found["systems"].setdefault(name, {})[", ".join(side)] = figures
            spread = f"{figures['ratio']:.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"
            print(
                f"{name:24}{', '.join(side):19}{figures['answers_per_second']:10.2f}{spread:>34}"
                f"{figures['cpu_ratio']:13.2f}{figures['identical_answers']:14.1%}"
            )
    if options.out:
        files.write_json(options.out, found)
    if any(found["systems"][name]["ours, float32"]["identical_answers"] < 1 for name in names):
        sys.exit("In the same precision some answers differ.")


if __name__ == "__main__":
    main()
