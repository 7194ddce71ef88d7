"""Models: what every notebook does the same way when it loads one."""

import gc
import os
import warnings

import datasets
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.model import access, default_model, hardware
from helpers.model.default_model import ModelError
from helpers.records import folders, resources, weights

PAD_TOKEN = "<|pad|>"


def find(model_id):
    """Return what `from_pretrained` should load for `model_id`: a folder, or the Hub id unchanged.

    model_id: the default model's name, a local folder (a relative one is meant from `notebooks/`)
    or a Hub id such as `meta-llama/Meta-Llama-3-8B-Instruct`. Raises ModelError for a folder
    without config.json or with a damaged file, or a Hub id that cannot be read (see
    `access.problem`).
    """
    if model_id == weights.DEFAULT_MODEL:
        return str(default_model.fetch())
    folder = folders.meant(model_id)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model_id {model_id}: the folder has no config.json, so it is not a "
                "transformers model."
            )
        if wrong := default_model.damaged_file(folder):
            raise ModelError(
                f"model_id {model_id}: {wrong} is cut off or damaged: copy the folder again."
            )
        return str(folder.resolve())
    problem = access.problem(model_id)
    if problem:
        raise ModelError(f"model_id {model_id} {problem}")
    return model_id


def quiet():
    """Keep the libraries' chatter, progress of loading for example, out of the notebooks."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler of 03 notes its start and end
    warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def add_pad_row(model, tokenizer):
    """Give `model`, in place, an embedding row for every token of `tokenizer`, also the pad token.

    The new rows hold the mean of the old ones: a mean of logits is never the largest, so the pad
    token can never win a greedy choice. Frozen and masked, the rows are never trained.
    """
    old = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=8, mean_resizing=False)
        with torch.no_grad():
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                layer.weight[old:] = layer.weight[:old].float().mean(dim=0).to(layer.weight.dtype)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id


def targets(model, names):
    """The linear layers of `model` that `names`, a comma-separated str, says: list of str.

    Raises ValueError, with the names that there are, when the model lacks one of them.
    """
    linear = {
        name.split(".")[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    wanted = [name.strip() for name in names.split(",")]
    if missing := sorted(set(wanted) - linear):
        raise ValueError(
            f"lora_targets names {missing}, which this model does not have; it has "
            f"{sorted(linear)}."
        )
    return wanted


def keep_trainable_after_evaluation(model):
    """Stop bitsandbytes from repacking NF4 weights on CPUs with AVX512-BF16, in place.

    bitsandbytes 0.50 repacks the weights at the first evaluation into a form that has no backward
    pass: training that goes on afterwards loses its gradients in silence.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantized(model, storage="auto"):
    """`model` with its weights written out in its dtype, where `storage` or the machine says so.

    model: quantized or not; storage: as in `hardware.pick_storage`. The values stay those of the
    quantized weights. What was not quantized is copied, so that the file it came from need not stay
    in memory.
    """
    if not getattr(model, "is_quantized", False):
        return model
    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter and parameter.device.type == "cpu":
            # Norms and embeddings may be parts of the mapped file, and hold all of it.
            parameter.data = parameter.data.clone()
    size = model.dtype.itemsize * model.num_parameters()
    choice, _ = hardware.pick_storage(storage, size)
    return model.dequantize() if choice == "dequantized" else model


def ready_for_training(model, tokenizer, storage="auto"):
    """`model`, a base just loaded, as training wants it: returned, and changed in place.

    Its weights are `dequantized` as `storage` says, it can be trained further after an evaluation,
    every token of `tokenizer` has a row, and past tokens are not kept, which only generation needs.
    """
    model = dequantized(model, storage)
    keep_trainable_after_evaluation(model)
    add_pad_row(model, tokenizer)
    model.config.use_cache = False
    return model


def load_adapter(adapter, model_folder, quantization_config, dtype):
    """Load a saved adapter onto its base. Returns (model, tokenizer).

    adapter: folder with LoRA tensors and tokenizer; the pad row that the adapter does not hold is
    put back. model_folder: the base, as from `find`; quantization_config: BitsAndBytesConfig or
    None; dtype: torch dtype. A quantized base is held as `dequantized` finds best.
    """
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=dtype, quantization_config=quantization_config, device_map=device()
    )
    model = dequantized(model)
    add_pad_row(model, tokenizer)
    keep_trainable_after_evaluation(model)
    return PeftModel.from_pretrained(model, adapter), tokenizer


def device(size=0):
    """`device_map` for from_pretrained: a GPU that holds `size` bytes and a fifth more, or the CPU.

    Each process gets a GPU of its own. Models that are no longer used are out of memory afterwards.
    Raises ModelError when the main memory cannot hold `size` bytes either.
    """
    # bitsandbytes' weights and their layers refer to each other, so `del model` alone keeps them.
    gc.collect()
    if torch.cuda.is_available() and 1.2 * size < torch.cuda.get_device_properties(0).total_memory:
        return {"": int(os.environ.get("LOCAL_RANK", "0"))}
    total, _ = resources.main_memory()
    if size > total:
        raise ModelError(
            f"The model takes {resources.readable(size)}, and this machine has "
            f"{resources.readable(total)} of memory: take the run directory to a larger one, and "
            "go on there with --from and this notebook's number."
        )
    return {"": "cpu"}


def sharded():
    """True when `accelerate launch` runs this process under FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
