"""Manifests: what each notebook wrote, from what, and whether that is still whole."""

import hashlib
import importlib.metadata
import json
import platform
import re
from pathlib import Path

from helpers.records import files, folders, weights
from helpers.records.code import code_hash
from helpers.records.folders import ArtefactError

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")
NEEDS = {
    "01_data": (),
    "02_quantize_and_lora": ("01_data",),
    "03_train": ("01_data", "02_quantize_and_lora"),
    "04_merge_push": ("01_data", "02_quantize_and_lora", "03_train"),
    "05_evaluate": ("01_data", "02_quantize_and_lora", "03_train", "04_merge_push"),
}
# Fields of JSON files that differ from run to run although the result is the same.
MEASURED = re.compile(r"(seconds|runtime|_per_second|memory_mb)$")


def read_manifest(run_dir, notebook):
    """Return the manifest that `notebook` left in `run_dir`, as a dict.

    Raises ArtefactError when it is missing or unreadable, naming the notebook to run.
    """
    try:
        return files.read_json(Path(run_dir) / notebook / "manifest.json")
    except FileNotFoundError:
        raise ArtefactError(
            f"{notebook} has not been run in this run directory: run {notebook} first."
        ) from None
    except ValueError:
        raise ArtefactError(
            f"The manifest of {notebook} is damaged: run {notebook} again."
        ) from None


def result_hash(folder, left_out=()):
    """SHA-256 (str) over what counts as a result in a notebook's folder (Path).

    Plots do not count, nor do the fields of JSON files that say how long something took or how much
    memory: so the same work done again has the same hash. left_out: sub-folders that are no results.
    """
    hashes = []
    for name, path in files.contents(folder, left_out).items():
        if path.suffix == ".json":
            hashes.append((name, files.text_hash(json.dumps(_unmeasured(files.read_json(path))))))
        elif path.suffix != ".png":
            hashes.append((name, files.sha256(path)))
    return files.text_hash(*hashes)


def _unmeasured(value):
    """A JSON value without the fields that are MEASURED."""
    if isinstance(value, dict):
        return {k: _unmeasured(v) for k, v in sorted(value.items()) if not MEASURED.search(k)}
    return [_unmeasured(inner) for inner in value] if isinstance(value, list) else value


def versions():
    """Versions (str) of Python and the libraries that results depend on, by name."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {**found, "python": platform.python_version()}


def input_hashes(notebook, run_dir, parameters):
    """{name: hash or text} of everything `notebook` starts from, its parameters aside.

    That is earlier results, data, a model's folder, the code that computes, the libraries.
    """
    needed = {name: read_manifest(run_dir, name)["results"] for name in NEEDS[notebook]}
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    hashes = {**needed, "code": code_hash(notebook), "libraries": libraries}
    if notebook == "01_data":
        hashes["data"] = _data_hash(folders.meant(parameters["data_path"]))
        if folders.meant(parameters["model_id"]).is_dir():
            hashes["model"] = weights.identity(parameters["model_id"])
    return hashes


def _data_hash(path):
    """SHA-256 over the file or the folder of files at `path`; a word when there is none to be read."""
    listed = list(files.contents(path).values()) if path.is_dir() else [path]
    try:
        digests = [files.sha256(file) for file in listed if file.is_file()]
    except PermissionError:
        return "unreadable"  # said by the cell that reads it
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else "missing"


def verify(run_dir):
    """Compare a run directory with its manifests; returns a sentence for all that is not as it was written.

    Raises ArtefactError when there is no manifest at all.
    """
    run_dir = Path(run_dir).expanduser().resolve()
    finished = [name for name in NEEDS if (run_dir / name / "manifest.json").exists()]
    if not finished:
        raise ArtefactError(f"{run_dir} holds no finished notebook.")
    found = []
    for notebook in NEEDS:
        if notebook in finished:
            found += _altered(run_dir, notebook, finished)
        elif (run_dir / notebook).exists():
            found.append(f"{notebook} has not been finished: it has no manifest.")
    return found


def _altered(run_dir, notebook, finished):
    """Sentences (list of str) about what is no longer as the manifest of `notebook` says."""
    try:
        manifest = read_manifest(run_dir, notebook)
        recorded, inputs, left_out = (manifest[key] for key in ("files", "inputs", "left_out"))
    except (ArtefactError, KeyError, TypeError):
        return [
            f"{notebook}/manifest.json is damaged or of an older version: run {notebook} again."
        ]
    now = files.contents(run_dir / notebook, left_out)
    found = [f"{notebook}/{name} is missing." for name in recorded if name not in now]
    for name in recorded:
        if name in now and files.sha256(now[name]) != recorded[name]:
            found.append(f"{notebook}/{name} was altered.")
    found += [f"{notebook}/{name} was added." for name in now if name not in recorded]
    for earlier in (name for name in NEEDS[notebook] if name in finished):
        try:
            same = inputs[earlier] == read_manifest(run_dir, earlier)["results"]
        except (ArtefactError, KeyError, TypeError):
            continue  # said of that notebook itself
        if not same:
            found.append(f"{notebook} was made from another {earlier} than the one that is here.")
    return found


def follows(notebook, run_dir):
    """True when `notebook` is finished in `run_dir`, and was made from the earlier results that are there now."""
    try:
        inputs = read_manifest(run_dir, notebook)["inputs"]
        return all(
            inputs[earlier] == read_manifest(run_dir, earlier)["results"]
            for earlier in NEEDS[notebook]
        )
    except (ArtefactError, KeyError, TypeError):
        return False


def damaged_files(run_dir, notebook):
    """Names of the files of `notebook` that are missing or no longer have the hash of its manifest."""
    recorded = read_manifest(run_dir, notebook)["files"]
    folder = Path(run_dir) / notebook
    return [
        name
        for name, digest in recorded.items()
        if not (folder / name).is_file() or files.sha256(folder / name) != digest
    ]


def is_current(notebook, run_dir, parameters, processes=1, code=True):
    """True when `notebook` finished in `run_dir` with these parameters and inputs and its files are intact.

    processes: how many it is to run on; more of them make larger updates, so the result is another.
    code: False lets the code and the libraries be others.
    """
    try:
        manifest = read_manifest(run_dir, notebook)
        wanted = {name: value for name, value in parameters.items() if name != "run_dir"}
        ignored = {} if code else dict.fromkeys(("code", "libraries"))
        return (
            manifest["parameters"] == wanted
            and manifest["processes"] == processes
            and manifest["inputs"] | ignored
            == input_hashes(notebook, run_dir, parameters) | ignored
            and not damaged_files(run_dir, notebook)
        )
    except (ArtefactError, KeyError):
        return False
