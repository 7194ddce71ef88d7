"""Speed of 05's answers against the article's: python tests/benchmarks/eval_speed.py [--rows 100] [--rounds 3]

The merged model of a finished run answers the first test rows, in turn, in one process. Ours is `asking.answer` with
05's batch size, in the run's precision, and once more in float32. The other is the article's transformers `pipeline`, one
prompt at a time on the model as `from_pretrained` gives it, in float32 and in the run's precision, with the same longest
answer and greedy choice. (The article also quantizes on loading; that is left out, as it changes the answers: see 04.)
In float32 both must give the same answers, or the command fails; another precision rounds otherwise, so there the share
is printed. While other programs use the machine, the ratios by CPU time are the ones to trust.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from helpers import artefacts


def article(model, tokenizer, prompts, max_new_tokens):
    """Answers (list of str) through `pipeline`, one prompt at a time."""
    from transformers import pipeline

    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, return_full_text=False)
    written = [tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) for prompt in prompts]
    answers = [pipe(text, max_new_tokens=max_new_tokens, do_sample=False) for text in written]
    return [answer[0]["generated_text"].strip() for answer in answers]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100, help="test rows to answer (default 100)")
    parser.add_argument("--rounds", type=int, default=3, help="times all sides are run in turn (default 3)")
    parser.add_argument("--batch-size", type=int, default=16, help="of our side (default 16, as in 05)")
    parser.add_argument("--run-dir", default="runs/default", help="a finished run (default runs/default)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--out", help="also write the figures to this JSON file")
    options = parser.parse_args()
    if min(options.rows, options.rounds) < 1:
        parser.error("--rows and --rounds: at least 1.")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from helpers import asking, chat, models

    models.quiet()
    if options.threads:
        torch.set_num_threads(options.threads)
    run_dir = Path(options.run_dir)
    merged = run_dir / "04_merge_push" / "merged"
    if not merged.is_dir():
        sys.exit(f"There is no {merged}: run the course up to 04 first (make course), or name a finished run with --run-dir.")
    rows, train = (chat.read_rows(run_dir / "01_data" / f"{name}.jsonl").to_list() for name in ("test", "train"))
    prompts = [row["prompt"] for row in rows[: options.rows]]
    precision = artefacts.read_json(run_dir / "03_train" / "metrics.json")["precision"]
    tokenizer = AutoTokenizer.from_pretrained(merged)
    longest = asking.room(tokenizer, [row["answer"] for row in train])
    load = lambda dtype: AutoModelForCausalLM.from_pretrained(merged, dtype=getattr(torch, dtype)).eval()
    loaded = {dtype: load(dtype) for dtype in {precision, "float32"}}

    def ours(dtype):
        return [row["text"] for row in asking.answer(loaded[dtype], tokenizer, prompts, longest, options.batch_size)]

    one_at_a_time = lambda dtype: article(loaded[dtype], tokenizer, prompts, longest)
    sides = {
        f"{name}, {dtype}": (lambda ask=ask, dtype=dtype: ask(dtype))
        for name, ask in (("article", one_at_a_time), ("ours", ours)) for dtype in dict.fromkeys(["float32", precision])
    }
    seconds, cpu, answers = {name: [] for name in sides}, {name: [] for name in sides}, {}
    for _ in range(options.rounds):
        for name, side in sides.items():
            began, cpu_began = time.monotonic(), time.process_time()
            answers[name] = side()
            seconds[name].append(time.monotonic() - began)
            cpu[name].append(time.process_time() - cpu_began)

    first, found = next(iter(sides)), {"rows": len(prompts), "batch_size": options.batch_size, "threads": torch.get_num_threads()}
    for name, times in seconds.items():
        ratios, cpu_ratios = ([a / b for a, b in zip(of[first], of[name], strict=True)] for of in (seconds, cpu))
        same = sum(a == b for a, b in zip(answers[first], answers[name], strict=True)) / len(prompts)
        found[name] = {"seconds": times, "cpu_seconds": cpu[name], "cpu_ratio": statistics.median(cpu_ratios),
                       "answers_per_second": len(prompts) / statistics.median(times),
                       "ratio": statistics.median(ratios), "ratios": ratios, "identical_answers": same}
        print(f"{name:19}{found[name]['answers_per_second']:7.2f} answers/s   {found[name]['ratio']:5.2f} times "
              f"(from {min(ratios):.2f} to {max(ratios):.2f}; by CPU time {found[name]['cpu_ratio']:.2f})   identical answers {same:.1%}")
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if found["ours, float32"]["identical_answers"] < 1:
        sys.exit("In the same precision some answers differ.")


if __name__ == "__main__":
    main()
