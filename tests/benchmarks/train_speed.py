"""Training speed of 03 against the article's settings: python tests/benchmarks/train_speed.py [--rows 200] [--full]

Both sides train the same model on the same rows, with the same adapter, epochs and effective batch, in turn, each in a
process of its own and without a GPU. Ours is notebook 03 as it stands. The other is TRL's SFTTrainer as the article sets
it: float32, nothing quantized, micro-batches of 2, LoRA dropout 0.05, rows in random order. Tokens a second count the
rows' own tokens, neither padding nor the rows that fill up our last update, over the time of training with the
evaluations on the way. Validation loss is measured the same way for both, on the saved adapters: the mean over all answer
tokens. The ceiling is what a matrix product alone would allow on this machine: 4 FLOPs a token and weight of the linear
layers (forward, and the gradient of the activations) and 6 for LoRA's (their own gradient too). It counts every token of
a row; ours computes the beginning that all rows share once a batch, so its share is of the work done, not of the
processor's rate. --full trains on all rows with the defaults and adds accuracy on the test rows, with the paired
difference (of all seeds together, too); --precision float32 shows a machine without fast bfloat16.
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

from helpers import artefacts

DEFAULTS = {"epochs": 1.0, "eval_fraction": 0.5, "save_fraction": 0.5}


def stock(run_dir, epochs, learning_rate, batch, seed, evaluations):
    """Train as the article does on the rows of `run_dir`; prints the figures as JSON and saves the adapter in `run_dir`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    from helpers import chat, models

    models.quiet()
    data = run_dir / "01_data"
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    rows = {name: chat.read_rows(data / f"{name}.jsonl") for name in ("train", "validation")}
    model = AutoModelForCausalLM.from_pretrained(models.find(models.DEFAULT_MODEL), dtype=torch.float32)
    models.add_pad_row(model, tokenizer)
    set_seed(seed)
    lora = LoraConfig.from_pretrained(run_dir / "02_quantize_and_lora")
    lora.lora_dropout = 0.05
    model = get_peft_model(model, lora)
    config = SFTConfig(
        output_dir=str(run_dir / "stock" / "checkpoints"), completion_only_loss=True, max_length=512, use_cpu=True,
        num_train_epochs=epochs, per_device_train_batch_size=2, gradient_accumulation_steps=max(1, batch // 2),
        learning_rate=learning_rate, lr_scheduler_type="cosine", warmup_steps=0.1, eval_strategy="steps",
        eval_steps=evaluations, save_strategy="no", bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, seed=seed,
    )
    trainer = SFTTrainer(
        model=model, args=config, processing_class=tokenizer,
        train_dataset=rows["train"].select_columns(["prompt", "completion"]),
        eval_dataset=rows["validation"].select_columns(["prompt", "completion"]),
    )
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    model.save_pretrained(run_dir / "stock" / "adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(run_dir / "stock" / "adapter")
    tokens = sum(map(len, trainer.train_dataset["input_ids"])) * epochs
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


def quality(run_dir, adapter, quantized, precision, test):
    """Prints as JSON what the model with `adapter` computes in `precision` (name of a torch dtype): `validation_loss`
    (mean over the answer tokens, nats) and, if `test`, `right` (1.0 for each test row with the exact label) and its mean.
    """
    import torch
    from transformers import BitsAndBytesConfig

    from helpers import asking, chat, models

    models.quiet()
    dtype, config = getattr(torch, precision), None
    if quantized:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
        )
    model, tokenizer = models.load_adapter(adapter, models.find(models.DEFAULT_MODEL), config, dtype)
    model.eval()
    losses = []
    for row in chat.read_rows(run_dir / "01_data" / "validation.jsonl").to_list():
        ids, mask = chat.trained_tokens(tokenizer, row["prompt"], row["completion"])
        with torch.inference_mode():
            scores = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        missed = torch.nn.functional.cross_entropy(scores, torch.tensor(ids[1:]), reduction="none")
        losses.append(missed[torch.tensor(mask[1:])])
    found = {"validation_loss": float(torch.cat(losses).mean())}
    if test:
        rows = chat.read_rows(run_dir / "01_data" / "test.jsonl").to_list()
        answers = asking.answer(model, tokenizer, [row["prompt"] for row in rows], 12, 16)
        right = [float(found["text"] == row["answer"]) for found, row in zip(answers, rows, strict=True)]
        found |= {"accuracy": sum(right) / len(right), "right": right}
    print(json.dumps(found))


def matrix_rate(dtype, size=1536, rounds=20):
    """FLOP/s of a square matrix product of `size` in `dtype` on this machine, the best of `rounds`."""
    import torch

    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def flops_per_token(run_dir):
    """FLOPs of training on one token: linear layers of the default model and the adapter of `run_dir`."""
    from helpers import models

    models.quiet()  # before PEFT looks for bitsandbytes
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(models.find(models.DEFAULT_MODEL)))
        linear = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
        model = get_peft_model(model, LoraConfig.from_pretrained(run_dir / "02_quantize_and_lora"))
    return 4 * linear + 6 * sum(p.numel() for p in model.parameters() if p.requires_grad)


def run(command):
    alone = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *map(str, command)], check=False, capture_output=True, text=True, env=alone)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def call(*arguments):
    """Run one side of this file in a process of its own; returns the JSON object that it prints last."""
    return json.loads(run([__file__, *arguments]).strip().splitlines()[-1])


def accuracies(of, ours, article, seed):
    """Print and return by how much the accuracy of `ours` differs from `article` (1.0 or 0.0 a test row, in one order)."""
    from helpers import evaluation

    compared = evaluation.compare(ours, article, 2000, seed)
    low, high = (100 * end for end in compared["ci95"])
    print(f"{of}  ours less the article's accuracy: {100 * compared['difference']:+.1f} points (95 % interval "
          f"{low:+.1f} to {high:+.1f}, {compared['test']} p = {compared['p_value']:.3f})", flush=True)
    return compared


def both(run_dir, seed, options, found):
    """Train both sides in turn in `run_dir` with `seed` and add what they took to `found`; returns `flops_per_token`."""
    common = ["-m", "helpers.run", "--run-dir", run_dir]
    changed = {"seed": seed, "precision": options.precision, "resume": False} | ({} if options.full else DEFAULTS)
    chosen = [part for name, value in changed.items() for part in ("-p", name, value)]
    run([*common, "--until", "02", "-p", "seed", seed, *([] if options.full else ["-p", "max_rows", options.rows])])
    for _ in range(1 if options.full else options.rounds):
        run([*common, "--from", "03", "--until", "03", "--force", *chosen])
        metrics = artefacts.read_json(run_dir / "03_train" / "metrics.json")
        used = artefacts.read_manifest(run_dir, "03_train")["parameters"]
        settings = [
            used["epochs"], used["learning_rate"], used["batch_size"] * used["gradient_accumulation_steps"], seed,
            used["eval_fraction"],
        ]
        article = call("--side", "stock", run_dir, json.dumps(settings))
        ours = {"seconds": metrics["seconds"], "tokens": article["tokens"], "precision": metrics["precision"]}
        test = "test" if options.full else "none"
        ours |= call("--side", "quality", run_dir, run_dir / "03_train" / "adapter", "nf4", metrics["precision"], test)
        article |= call("--side", "quality", run_dir, run_dir / "stock" / "adapter", "none", "float32", test)
        for side, figures in (("ours", ours), ("article", article)):
            found[side].append({"seed": seed, "tokens_per_second": figures["tokens"] / figures["seconds"]} | figures)
            shown = "".join(f"  {name} {figures[name]:.3f}" for name in ("validation_loss", "accuracy") if name in figures)
            print(f"seed {seed}  {side:8}{found[side][-1]['tokens_per_second']:7.0f} tokens/s{shown}", flush=True)
        if options.full:
            found.setdefault("differences", []).append(accuracies(f"seed {seed}", ours["right"], article["right"], seed))
        if options.out:  # after each pair: the next may be stopped
            artefacts.write_json(options.out, found)
    return flops_per_token(run_dir)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=count, default=200, help="rows of data/inbox.csv to use (default 200)")
    parser.add_argument("--rounds", type=count, default=3, help="times both sides are run in turn (default 3)")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="one or several (default 1)")
    parser.add_argument("--full", action="store_true", help="all rows and epochs, once a seed, with accuracy on the test rows")
    parser.add_argument("--precision", default="auto", help="of our side (default auto)")
    parser.add_argument("--out", type=file, help="also write the figures to this JSON file")
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        name, run_dir, *rest = options.side
        if name == "stock":
            return stock(Path(run_dir), *json.loads(rest[0]))
        adapter, quantization, precision, test = rest
        return quality(Path(run_dir), adapter, quantization == "nf4", precision, test == "test")
    import pandas as pd

    if options.rows > (there := len(pd.read_csv(artefacts.REPOSITORY / "data" / "inbox.csv"))):
        parser.error(f"--rows: data/inbox.csv has {there} rows.")

    found = {"ours": [], "article": []}
    for seed in options.seed:
        with tempfile.TemporaryDirectory() as folder:
            flops = both(Path(folder), seed, options, found)
    if options.full and len(options.seed) > 1:
        ours, article = ([right for one in found[side] for right in one["right"]] for side in ("ours", "article"))
        found["difference"] = accuracies("all seeds", ours, article, options.seed[0])

    import torch

    from helpers import hardware

    for side in ("ours", "article"):
        speed = statistics.median(one["tokens_per_second"] for one in found[side])
        means = "".join(f", {name.replace('_', ' ')} {statistics.mean(one[name] for one in found[side]):.3f}"
                        for name in ("validation_loss", "accuracy") if name in found[side][0])
        print(f"{side:8}{speed:7.0f} tokens/s (median of {len(found[side])}){means} (mean)")
    ratios = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(found["ours"], found["article"], strict=True)]
    print(f"ratio   {statistics.median(ratios):7.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    found["ratios"] = ratios
    for dtype in dict.fromkeys((torch.float32, hardware.pick_precision()[0])):  # slow bfloat16 would take minutes
        ceiling = matrix_rate(dtype) / flops
        share = statistics.median(one["tokens_per_second"] for one in found["ours"]) / ceiling
        name = str(dtype).removeprefix("torch.")
        print(f"{name} matrix products alone: {ceiling:.0f} tokens/s; ours reaches {share:.0%} of that")
        found[f"{name}_ceiling_tokens_per_second"] = ceiling
    if options.out:
        artefacts.write_json(options.out, found)


if __name__ == "__main__":
    main()
