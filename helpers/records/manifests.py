"""Manifests: what each notebook wrote, from what, and whether that is still whole."""

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
# Fields of JSON files that differ from run to run although the result is the same; `base` is what
# the untuned model replies in 01, which depends on how a processor rounds.
MEASURED = re.compile(r"(seconds|runtime|_per_second|memory_mb)$|^base$")


def read_manifest(run_dir, notebook):
    """Return the manifest that `notebook` left in `run_dir`, as a dict.

    Raises ArtefactError, which says what to run, when it is missing, damaged or of an older version
    of the course.
    """
    path = Path(run_dir) / notebook / "manifest.json"
    try:
        manifest = files.read_json(path)
    except FileNotFoundError:
        raise ArtefactError(
            f"{notebook} has not been run in this run directory: run {notebook} first."
        ) from None
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise ArtefactError(f"{notebook}/manifest.json is damaged: run {notebook} again.")
    if "results" not in manifest:
        raise ArtefactError(
            f"{notebook} was run by an older version of the course: run {notebook} again."
        )
    return manifest


def result_hash(folder, left_out=()):
    """SHA-256 (str) over what counts as a result in a notebook's folder (Path).

    Pictures do not count, nor do the fields of JSON files that say how long something took or how
    much memory: so the same work done again has the same hash. left_out: sub-folders that are no
    results.
    """
    hashes = []
    for name, path in files.contents(folder, left_out).items():
        if path.suffix == ".json":
            hashes.append((name, _json_hash(path)))
        elif path.suffix != ".png":
            hashes.append((name, files.sha256(path)))
    return files.text_hash(*hashes)


def _json_hash(path):
    """SHA-256 (str) over a JSON file without the fields that are MEASURED."""
    try:
        return files.text_hash(json.dumps(_unmeasured(files.read_json(path))))
    except ValueError:  # no JSON after all
        return files.sha256(path)


def _unmeasured(value):
    """A JSON value without the fields that are MEASURED, at any depth."""
    if isinstance(value, dict):
        return {
            name: _unmeasured(inner)
            for name, inner in sorted(value.items())
            if not MEASURED.search(name)
        }
    return [_unmeasured(inner) for inner in value] if isinstance(value, list) else value


def versions():
    """Versions (str) of Python and the libraries that results depend on, by name."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {**found, "python": platform.python_version()}


def input_hashes(notebook, run_dir, parameters):
    """{name: hash or text} of everything `notebook` starts from, its parameters aside.

    That is earlier results, data, a model's folder, the code that computes, the libraries. Raises
    ArtefactError when an earlier notebook has not been run.
    """
    inputs = {name: read_manifest(run_dir, name)["results"] for name in NEEDS[notebook]}
    inputs["code"] = code_hash(notebook)
    inputs["libraries"] = ", ".join(f"{name} {version}" for name, version in versions().items())
    if notebook == "01_data":
        inputs["data"] = _data_hash(folders.meant(parameters["data_path"]))
        if folders.meant(parameters["model_id"]).is_dir():
            inputs["model"] = weights.identity(parameters["model_id"])
    return inputs


def _data_hash(path):
    """SHA-256 over the file or the folder of files at `path`; a word when none can be read."""
    if path.is_dir():
        found = list(files.contents(path).values())
    else:
        found = [path] if path.is_file() else []
    try:
        hashes = [files.sha256(file) for file in found]
    except PermissionError:
        return "unreadable"  # said by the cell that reads it
    return files.text_hash(*hashes) if hashes else "missing"


def verify(run_dir):
    """Compare a run directory with its manifests.

    Returns a sentence (list of str) for each thing that is not as it was written. Raises
    ArtefactError when there is no manifest at all.
    """
    run_dir = Path(run_dir).expanduser().resolve()
    if not any((run_dir / notebook / "manifest.json").exists() for notebook in NEEDS):
        raise ArtefactError(f"{run_dir} holds no finished notebook.")
    found, readable = [], {}
    for notebook in NEEDS:
        folder = run_dir / notebook
        if (folder / "manifest.json").exists():
            try:
                readable[notebook] = read_manifest(run_dir, notebook)
            except ArtefactError as error:
                found.append(str(error))
        elif folder.exists():
            found.append(f"{notebook} has not been finished: it has no manifest.")
    for notebook, manifest in readable.items():
        found += _altered(run_dir / notebook, manifest)
        for earlier in NEEDS[notebook]:
            if earlier in readable and not made_from(manifest, earlier, readable[earlier]):
                found.append(
                    f"{notebook} was made from another {earlier} than the one that is here."
                )
    return found


def _altered(folder, manifest):
    """Sentences (list of str) about files in a notebook's folder that its manifest has not so."""
    recorded = manifest["files"]
    now = files.contents(folder, manifest["left_out"])
    found = [f"{folder.name}/{name} is missing." for name in recorded if name not in now]
    for name in recorded:
        if name in now and files.sha256(now[name]) != recorded[name]:
            found.append(f"{folder.name}/{name} was altered.")
    found += [f"{folder.name}/{name} was added." for name in now if name not in recorded]
    return found


def made_from(manifest, earlier, there):
    """True when work with this manifest started from the results of which `there` is the manifest.

    earlier: name of the notebook that made them.
    """
    return manifest["inputs"].get(earlier) == there["results"]


def follows(notebook, run_dir):
    """True when `notebook` is finished and was made from the earlier results that are there now."""
    try:
        manifest = read_manifest(run_dir, notebook)
        return all(
            made_from(manifest, earlier, read_manifest(run_dir, earlier))
            for earlier in NEEDS[notebook]
        )
    except ArtefactError:
        return False


def damaged_files(run_dir, notebook):
    """Names (list of str) of files of `notebook` that are missing or not as its manifest says."""
    recorded = read_manifest(run_dir, notebook)["files"]
    folder = Path(run_dir) / notebook
    found = []
    for name, digest in recorded.items():
        if not (folder / name).is_file() or files.sha256(folder / name) != digest:
            found.append(name)
    return found


def is_current(notebook, run_dir, parameters, processes=1, code=True):
    """True when `notebook` would come out in `run_dir` as it is there, so need not run again.

    It finished with these parameters and inputs, and its files are whole. processes: how many it is
    to run on; more of them make larger updates, so the result is another. code: False lets the code
    and the libraries be others.
    """
    wanted = {name: value for name, value in parameters.items() if name != "run_dir"}
    ignored = {} if code else dict.fromkeys(("code", "libraries"))
    try:
        manifest = read_manifest(run_dir, notebook)
        if manifest["parameters"] != wanted or manifest["processes"] != processes:
            return False
        inputs = input_hashes(notebook, run_dir, parameters)
        same_inputs = manifest["inputs"] | ignored == inputs | ignored
        return same_inputs and not damaged_files(run_dir, notebook)
    except ArtefactError:
        return False
