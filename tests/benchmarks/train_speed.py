"""Training speed of 03 against the article's settings.

python tests/benchmarks/train_speed.py [--rows 200] [--full]

Both sides train the same model on the same rows, with the same adapter, epochs and effective batch,
in turn, each in a process of its own and without a GPU. Ours is notebook 03 as it stands. The other
is TRL's SFTTrainer as the article sets it: float32, nothing quantized, micro-batches of 2, rows in
random order. Tokens a second count the rows' own tokens, neither padding nor the rows that fill up
our last update, over the time of training with the evaluations on the way. The ceiling is what a
matrix product alone would allow on this machine: 4 FLOPs a token and weight of the linear layers
(forward, and the gradient of the activations) and 6 for LoRA's (their own gradient too). It counts
every token of a row; ours computes the beginning that all rows share once a batch, so its share is
of the work done, not of the processor's rate.

Validation loss is measured the same way for both, on the saved adapters: the mean over all answer
tokens. --full trains on all rows with the defaults, and adds loss and accuracy on the test rows.
Ours against the article's comes with a 95 % interval, for each seed and for all of them (paired
bootstrap over the rows): the loss of a hundred short answers hangs on the few that a model gets
wrong. The intervals tell what other rows would change, not what other draws of dropout would; -p
lora_dropout 0 leaves those out on both sides. --precision float32 shows a machine without fast
bfloat16, -p data_path other data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from command_line import count, file
from eval_speed import quantization

from helpers.records import files, folders, manifests

QUALITY = ("validation_loss", "test_loss", "accuracy")
SPLITS = ("validation", "test")
DEFAULTS = {"epochs": 1.0, "eval_fraction": 0.5, "save_fraction": 0.5}


def settings(run_dir):
    """{name: value} of the parameters that 01, 02 and 03 had in `run_dir`."""
    return {
        name: value
        for step in ("01_data", "02_quantize_and_lora", "03_train")
        for name, value in manifests.read_manifest(run_dir, step)["parameters"].items()
    }


def stock(run_dir):
    """Train as the article does, on the rows of `run_dir` and as long as 03 did there.

    The adapter is like 03's. Prints the figures as JSON and saves the adapter in `run_dir`.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    from helpers.data import chats
    from helpers.model import loading

    loading.quiet()
    used, data = settings(run_dir), run_dir / "01_data"
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    rows = {name: chats.read_rows(data / f"{name}.jsonl") for name in ("train", "validation")}
    model = AutoModelForCausalLM.from_pretrained(
        loading.find(used["model_id"]), dtype=torch.float32
    )
    loading.add_pad_row(model, tokenizer)
    set_seed(used["seed"])
    model = get_peft_model(model, LoraConfig.from_pretrained(run_dir / "02_quantize_and_lora"))
    update = used["batch_size"] * used["gradient_accumulation_steps"]  # rows
    micro = 1 if update % 2 else 2
    config = SFTConfig(
        output_dir=str(run_dir / "stock" / "checkpoints"),
        completion_only_loss=True,
        max_length=used["max_length"],
        use_cpu=True,
        num_train_epochs=used["epochs"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=update // micro,
        learning_rate=used["learning_rate"],
        lr_scheduler_type=used["lr_scheduler"],
        warmup_steps=used["warmup_ratio"],
        eval_strategy="steps",
        eval_steps=used["eval_fraction"],
        save_strategy="no",
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        seed=used["seed"],
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=rows["train"].select_columns(["prompt", "completion"]),
        eval_dataset=rows["validation"].select_columns(["prompt", "completion"]),
    )
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    model.save_pretrained(run_dir / "stock" / "adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(run_dir / "stock" / "adapter")
    tokens = sum(map(len, trainer.train_dataset["input_ids"])) * used["epochs"]
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


def quality(run_dir, side, test):
    """Prints as JSON what the model that `side` (ours, article) has trained in `run_dir` gives.

    That is `validation_loss` (mean over the answer tokens, nats) and `validation_losses` (the sum
    over each row's); if `test`, the same of the test rows, and `right` (1.0 for each test row with
    exactly the right answer) with its mean, `accuracy`.
    """
    import torch

    from helpers.data import chats
    from helpers.evaluate import asking
    from helpers.model import loading

    loading.quiet()
    used, folder, dtype, config = (
        settings(run_dir),
        run_dir / "stock" / "adapter",
        torch.float32,
        None,
    )
    if side == "ours":
        folder = run_dir / "03_train" / "adapter"
        dtype = getattr(torch, files.read_json(folder.parent / "metrics.json")["precision"])
        config = quantization(used["quantization"], dtype)
    model, tokenizer = loading.load_adapter(folder, loading.find(used["model_id"]), config, dtype)
    model.eval()
    rows = {
        split: chats.read_rows(run_dir / "01_data" / f"{split}.jsonl").to_list()
        for split in SPLITS[: 1 + test]
    }
    found = {}
    for split, examples in rows.items():
        sums, tokens = [], 0
        for row in examples:
            ids, mask = chats.trained_tokens(tokenizer, row["prompt"], row["completion"])
            with torch.inference_mode():
                scores = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
            missed = torch.nn.functional.cross_entropy(
                scores, torch.tensor(ids[1:]), reduction="none"
            )
            missed = missed[torch.tensor(mask[1:])]
            sums.append(float(missed.sum()))
            tokens += len(missed)
        found |= {f"{split}_loss": sum(sums) / tokens, f"{split}_losses": sums}
    if test:
        room = asking.room(tokenizer, [row["answer"] for row in rows["test"]])
        answers = asking.answer(model, tokenizer, [row["prompt"] for row in rows["test"]], room, 16)
        right = [
            float(found["text"] == row["answer"])
            for found, row in zip(answers, rows["test"], strict=True)
        ]
        found |= {"accuracy": sum(right) / len(right), "right": right}
    print(json.dumps(found))


def matrix_rate(dtype, size=1536, rounds=20):
    """FLOP/s of a square matrix product of `size` in `dtype` here, the best of `rounds`."""
    import torch

    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def flops_per_token(run_dir):
    """FLOPs of training on one token: linear layers of the model and the adapter of `run_dir`."""
    from helpers.model import loading

    loading.quiet()  # before PEFT looks for bitsandbytes
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(loading.find(settings(run_dir)["model_id"]))
        )
        linear = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
        model = get_peft_model(model, LoraConfig.from_pretrained(run_dir / "02_quantize_and_lora"))
    return 4 * linear + 6 * sum(p.numel() for p in model.parameters() if p.requires_grad)


def run(command):
    alone = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *map(str, command)], check=False, capture_output=True, text=True, env=alone
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        sys.exit(done.returncode)
    return done.stdout


def call(*arguments):
    """Run one side in a process of its own; returns the JSON object that it prints last."""
    return json.loads(run([__file__, *arguments]).strip().splitlines()[-1])


def compare(of, ours, article, seed):
    """Print and return how the quality of `ours` compares with that of `article`.

    Both are lists of what `quality` found, run by run. Returns
    {split: [loss of ours over the article's, ends of its 95 % interval], "accuracy": what
    `scoring.compare` returns}.
    """
    import numpy as np
    from scipy.stats import bootstrap

    from helpers.evaluate import scoring

    def joined(side, name):
        return np.concatenate([one[name] for one in side])

    def quotient(a, b, axis=-1):
        return a.sum(axis) / b.sum(axis)

    compared = {}
    for split in SPLITS:
        if f"{split}_losses" in ours[0]:
            pair = [joined(side, f"{split}_losses") for side in (ours, article)]
            low, high = bootstrap(
                pair, quotient, paired=True, n_resamples=2000, method="percentile", rng=seed
            ).confidence_interval
            compared[split] = [float(number) for number in (quotient(*pair), low, high)]
            print(
                f"{of}  {split} loss, ours over the article's: {compared[split][0]:.2f} "
                f"(95 % interval {low:.2f} to {high:.2f})",
                flush=True,
            )
    if "right" in ours[0]:
        found = scoring.compare(
            *(joined(side, "right").tolist() for side in (ours, article)), 2000, seed
        )
        low, high = (100 * end for end in found["ci95"])
        print(
            f"{of}  ours less the article's accuracy: {100 * found['difference']:+.1f} points "
            f"(95 % interval {low:+.1f} to {high:+.1f}, {found['test']} "
            f"p = {found['p_value']:.3f})",
            flush=True,
        )
        compared["accuracy"] = found
    return compared


def both(run_dir, seed, options, found):
    """Train both sides in turn in `run_dir` and add what they took to `found`.

    Returns `flops_per_token`.
    """
    common = ["-m", "course", "run", "--run-dir", run_dir]
    changed = {"seed": seed, "precision": options.precision, "resume": False}
    changed |= {} if options.full else {"max_rows": options.rows} | DEFAULTS
    chosen = [
        part for name, value in [*changed.items(), *options.p] for part in ("-p", name, value)
    ]
    run([*common, "--until", "02", *chosen])
    for _ in range(1 if options.full else options.rounds):
        run([*common, "--from", "03", "--until", "03", "--force", *chosen])
        metrics = files.read_json(run_dir / "03_train" / "metrics.json")
        article = call("--side", "stock", run_dir)
        ours = {
            "seconds": metrics["seconds"],
            "tokens": article["tokens"],
            "precision": metrics["precision"],
        }
        for side, figures in (("ours", ours), ("article", article)):
            figures |= call("--side", "quality", run_dir, side, *(["test"] if options.full else []))
            found[side].append(
                {"seed": seed, "tokens_per_second": figures["tokens"] / figures["seconds"]}
                | figures
            )
            shown = "".join(f"  {name} {figures[name]:.3f}" for name in QUALITY if name in figures)
            print(
                f"seed {seed}  {side:8}{found[side][-1]['tokens_per_second']:7.0f} tokens/s{shown}",
                flush=True,
            )
        found.setdefault("compared", []).append(compare(f"seed {seed}", [ours], [article], seed))
        if options.out:  # after each pair: the next may be stopped
            files.write_json(options.out, found)
    return flops_per_token(run_dir)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=count, default=200, help="rows of the data to use (default 200)"
    )
    parser.add_argument(
        "--rounds", type=count, default=3, help="times both sides are run in turn (default 3)"
    )
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[1], help="one or several (default 1)"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="all rows and epochs, once a seed, with accuracy on the test rows",
    )
    parser.add_argument("--precision", default="auto", help="of our side (default auto)")
    parser.add_argument(
        "-p",
        nargs=2,
        metavar=("NAME", "VALUE"),
        action="append",
        default=[],
        help="a parameter of 01 to 03, for both sides: -p data_path my.csv, -p lora_dropout 0",
    )
    parser.add_argument("--out", type=file, help="also write the figures to this JSON file")
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        name, run_dir, *rest = options.side
        return (
            stock(Path(run_dir))
            if name == "stock"
            else quality(Path(run_dir), rest[0], "test" in rest)
        )
    own = [name for name, _ in options.p if name in ("seed", "precision", "run_dir", "resume")]
    if own:
        hint = (
            f"use --{own[0]}"
            if own[0] in ("seed", "precision")
            else "this benchmark sets it itself"
        )
        parser.error(f"-p {own[0]}: {hint}.")
    import pandas as pd

    own_data = "data_path" in dict(options.p)
    if not own_data and options.rows > (
        there := len(pd.read_csv(folders.REPOSITORY / "data" / "inbox.csv"))
    ):
        parser.error(f"--rows: data/inbox.csv has {there} rows.")

    found = {"ours": [], "article": []}
    for seed in options.seed:
        with tempfile.TemporaryDirectory() as folder:
            flops = both(Path(folder), seed, options, found)
    if len(options.seed) > 1:
        found["together"] = compare("all seeds", found["ours"], found["article"], options.seed[0])

    import torch

    from helpers.model import hardware

    for side in ("ours", "article"):
        speed = statistics.median(one["tokens_per_second"] for one in found[side])
        means = "".join(
            f", {name.replace('_', ' ')} {statistics.mean(one[name] for one in found[side]):.3f}"
            for name in QUALITY
            if name in found[side][0]
        )
        print(f"{side:8}{speed:7.0f} tokens/s (median of {len(found[side])}){means} (mean)")
    ratios = [
        a["tokens_per_second"] / b["tokens_per_second"]
        for a, b in zip(found["ours"], found["article"], strict=True)
    ]
    print(f"ratio   {statistics.median(ratios):7.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    found["ratios"] = ratios
    for dtype in dict.fromkeys(
        (torch.float32, hardware.pick_precision()[0])
    ):  # slow bfloat16 would take minutes
        ceiling = matrix_rate(dtype) / flops
        share = statistics.median(one["tokens_per_second"] for one in found["ours"]) / ceiling
        name = str(dtype).removeprefix("torch.")
        print(
            f"{name} matrix products alone: {ceiling:.0f} tokens/s; ours reaches {share:.0%} of it"
        )
        found[f"{name}_ceiling_tokens_per_second"] = ceiling
    if options.out:
        files.write_json(options.out, found)


if __name__ == "__main__":
    main()
