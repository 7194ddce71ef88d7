"""QLoRA on Llama 3 8B's architecture: the 2024 article's settings against ours, on one GPU.

python tests/benchmarks/qlora_8b.py [--steps 30] [--out FILE.json] [--tiny]

The weights are random: speed and memory do not depend on their values, and nothing gated is needed.
They are made on the device and quantized one matrix at a time, so neither host nor GPU ever holds
the model in 16 or 32 bits. Each line of the table changes one setting more. --tiny takes a very
small model instead, also on a CPU, to try the script out.
"""

import argparse
import gc
import importlib.util
import random
import sys
import tempfile
import time

import bitsandbytes as bnb
import torch
from command_line import file
from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from transformers.quantizers import AutoHfQuantizer
from trl import SFTConfig, SFTTrainer

from helpers.model import loading
from helpers.records import files, resources

LLAMA3_8B = {
    "vocab_size": 128_264,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ROWS = 8  # rows per update, in every line: the article's 2 x 4

ARTICLE = {
    "precision": "float16",
    "double_quant": False,
    "dropout": 0.05,
    "optim": "paged_adamw_8bit",
    "sampling": "random",
    "batch_size": 2,
    "liger": False,
    "checkpointing": True,
}
CHANGES = [  # (what the table calls it, what changes)
    ("the article's settings", {}),
    ("+ bfloat16, scales quantized too", {"precision": "bfloat16", "double_quant": True}),
    ("+ no dropout", {"dropout": 0.0}),
    ("+ fused AdamW", {"optim": "adamw_torch_fused"}),
    ("+ batches grouped by length", {"sampling": "group_by_length"}),
    ("+ 8 rows at once", {"batch_size": 8}),
    ("+ Liger kernels", {"liger": True}),
    ("+ no checkpointing", {"checkpointing": False}),
]


def lines(liger):
    """[(name, settings)], each line with the changes of those before it.

    liger: whether its package is there.
    """
    settings, found = dict(ARTICLE), []
    for name, change in CHANGES:
        if "liger" in change and not liger:
            continue
        settings = {**settings, **change}
        found.append((name, settings))
    return found


def random_weight(device):
    """A function (name, shape) -> bfloat16 tensor on `device`.

    Norms are ones, all others normal with deviation 0.02.
    """

    def make(name, shape):
        weight = torch.empty(shape, dtype=torch.bfloat16, device=device)
        return weight.fill_(1) if name.endswith("norm.weight") else weight.normal_(std=0.02)

    return make


def quantized_model(config, quantization_config, device, weight):
    """A model as `from_pretrained` would quantize it, made from one tensor at a time.

    config: LlamaConfig; quantization_config: BitsAndBytesConfig for 4 bits; device: "cuda" or
    "cpu"; weight: function (name, shape) that returns the unquantized tensor. Only one such tensor
    lives at any moment.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    quantizer = AutoHfQuantizer.from_config(quantization_config, pre_quantized=False)
    quantizer.preprocess_model(model, device_map={"": device})
    model.hf_quantizer = quantizer
    for name, empty in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        # The function is called in place: a name for its result would keep the tensor alive.
        if isinstance(module, bnb.nn.Linear4bit):
            value = bnb.nn.Params4bit(
                weight(name, empty.shape), requires_grad=False, **empty.__dict__
            ).to(device)
        else:
            value = torch.nn.Parameter(weight(name, empty.shape).to(device), requires_grad=False)
        setattr(module, leaf, value)
    # No parameters, but buffers.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    return quantizer.postprocess_model(model)


def rows(count, vocabulary, longest, seed=0):
    """`count` rows of random tokens, as SFTTrainer takes them.

    Lengths lie around 200 tokens with a long tail, those of answers between 2 and 64.
    """
    generator, made = random.Random(seed), []
    for _ in range(count):
        length = min(longest, max(24, int(generator.lognormvariate(5.3, 0.7))))
        answer = generator.randint(2, min(64, length // 2))
        tokens = [generator.randrange(2, vocabulary) for _ in range(length)]
        mask = [0] * (length - answer) + [1] * answer
        made.append({"input_ids": tokens, "completion_mask": mask})
    return Dataset.from_list(made)


def flops(model, data):
    """Useful floating-point operations (float) of training one token of `data`, a mean.

    2 for each weight forward and 2 for the gradient of its input; 2 more for adapters, whose own
    gradient is needed (Kaplan et al., 2020, section 2.1, less what frozen weights save). The output
    layer works at answer positions only. Recomputing under checkpointing is not useful work;
    attention scores, below 1 % at these lengths, are left out.
    """
    layers = [module for name, module in model.named_modules() if hasattr(module, "lora_A")]
    frozen = sum(layer.in_features * layer.out_features for layer in layers)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    scored = sum(map(sum, data["completion_mask"])) / sum(map(len, data["input_ids"]))
    return 4 * frozen + 6 * adapters + 4 * model.get_output_embeddings().weight.numel() * scored


def matrix_rate(device, size):
    """Operations a second (float) of a bfloat16 product of two `size` x `size` matrices."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = now(device)
        a @ b
        best = min(best, now(device) - start)
    return 2 * size**3 / best


def now(device):
    """Seconds (float), after the device has finished what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


class Clock(TrainerCallback):
    """Keeps (seconds, real tokens so far) after each update."""

    def __init__(self, device):
        self.device, self.ticks = device, []

    def on_step_end(self, args, state, control, **_):
        self.ticks.append((now(self.device), state.num_input_tokens_seen))


def measure(settings, shape, data, device, warm_up, folder):
    """Train one epoch on `data` with `settings` (dict), a line of the table.

    shape: arguments of LlamaConfig; warm_up: updates that are not timed; folder: for what the
    Trainer writes. Returns {"tokens_per_second": …, "peak_gb": …, "flops_per_token": …}.
    """
    gpu = device == "cuda"
    set_seed(0)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    model = adapted_model(settings, shape, device)
    clock = Clock(device)
    trainer = SFTTrainer(
        model=model,
        args=training_config(settings, gpu, folder),
        train_dataset=data,
        callbacks=[clock],
        processing_class=tokenizer(),
    )
    trainer.remove_callback(PrinterCallback)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as 03 does
    trainer.train()
    (start, before), (end, after) = clock.ticks[warm_up - 1], clock.ticks[-1]
    return {
        "tokens_per_second": (after - before) / (end - start),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if gpu else resources.peak_mb() / 1e3,
        "flops_per_token": flops(model, data),
    }


def adapted_model(settings, shape, device):
    """A quantized model with the article's adapter; arguments as in `measure`."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=settings["double_quant"],
    )
    model = quantized_model(LlamaConfig(**shape), quantization, device, random_weight(device))
    loading.keep_trainable_after_evaluation(model)
    model.config.use_cache = False
    model = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=settings["checkpointing"]
    )
    lora = LoraConfig(
        r=32,
        lora_alpha=16,
        lora_dropout=settings["dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def tokenizer():
    """A tokenizer of the two marks that the Trainer needs; the rows are tokens already."""
    marks = {"<|pad|>": 0, "<|end|>": 1}
    words = Tokenizer(WordLevel(marks, unk_token="<|pad|>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<|pad|>", eos_token="<|end|>")


def training_config(settings, gpu, folder):
    """SFTConfig for `settings`; arguments as in `measure`."""
    return SFTConfig(
        output_dir=folder,
        num_train_epochs=1,
        learning_rate=1e-4,
        completion_only_loss=True,
        max_length=None,
        per_device_train_batch_size=settings["batch_size"],
        gradient_accumulation_steps=ROWS // settings["batch_size"],
        optim=settings["optim"] if gpu else "adamw_torch",
        train_sampling_strategy=settings["sampling"],
        use_liger_kernel=settings["liger"],
        gradient_checkpointing=settings["checkpointing"],
        bf16=gpu and settings["precision"] == "bfloat16",
        fp16=gpu and settings["precision"] == "float16",
        use_cpu=not gpu,
        include_num_input_tokens_seen="non_padding",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1000,
    )


def table(found, rate):
    """The measurements [(name, dict)] as a Markdown table; rate: measured operations a second."""
    shown = ["| settings | tokens/s | peak memory, GB | share of the matrix rate |"]
    shown.append("|---|---:|---:|---:|")
    for name, row in found:
        if row:
            speed, peak = row["tokens_per_second"], row["peak_gb"]
            share = speed * row["flops_per_token"] / rate
            shown.append(f"| {name} | {speed:,.0f} | {peak:.1f} | {share:.1%} |")
        else:
            shown.append(f"| {name} | out of memory | | |")
    return "\n".join(shown)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps", type=int, default=30, help="updates for each line, the first 3 not timed"
    )
    parser.add_argument("--out", type=file, help="also write the figures to this JSON file")
    parser.add_argument(
        "--tiny", action="store_true", help="a very small model, to try the script out"
    )
    options = parser.parse_args(arguments)
    if options.steps < 5:
        parser.error("--steps: at least 5, of which the first 3 are not timed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        print(
            "No GPU here: the 8B model needs one with 24 GB or more; --tiny tries the script out.",
            file=sys.stderr,
        )
        return 2
    loading.quiet()
    shape = TINY if options.tiny else LLAMA3_8B
    data = rows(ROWS * options.steps, shape["vocab_size"], longest=64 if options.tiny else 2048)
    rate = matrix_rate(device, 512 if options.tiny else 8192)
    found = []
    for name, settings in lines(importlib.util.find_spec("liger_kernel") is not None):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found.append((name, measure(settings, shape, data, device, 3, folder)))
            except torch.cuda.OutOfMemoryError:
                found.append((name, None))
        gc.collect()
        torch.cuda.empty_cache()
        print(name, found[-1][1], flush=True)
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(
        f"\n{where}, {rate / 1e12:.2f} TFLOP/s in a bfloat16 matrix product, "
        f"{resources.peak_mb() / 1e3:.1f} GB of host memory\n"
    )
    print(table(found, rate))
    if options.out:
        figures = {
            "device": where,
            "matrix_rate": rate,
            "host_peak_gb": resources.peak_mb() / 1e3,
            "lines": dict(found),
        }
        files.write_json(options.out, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
