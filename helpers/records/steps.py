"""One notebook's work in a run directory: what it starts from, where it writes, what it made."""

import os
import shutil
import subprocess
import time

from helpers.records import files, folders, manifests, parameters, resources, weights
from helpers.records.folders import ArtefactError


class Step:
    """One notebook's work in a run directory: checks what it needs, then records what it made.

    notebook: a name in `parameters.NOTEBOOKS`; values: the notebook's parameters, for example its
    `globals()` (extra names are ignored).
    Attributes: `run_dir` and `folder` (Paths), `parameters` (dict).
    Raises ArtefactError when an earlier notebook has not run, ran with another seed or input, or is
    damaged. An earlier result of this notebook stays valid until its files are made anew.
    """

    def __init__(self, notebook, values):
        self.notebook = notebook
        self.parameters = parameters.check(notebook, values)
        try:
            self.run_dir = folders.run_directory(self.parameters["run_dir"])
        except OSError as error:
            raise folders.unusable(error) from None
        try:
            for needed in manifests.NEEDS[notebook]:
                self._check(needed)
        except ArtefactError as error:
            command = f"python -m course catch-up {notebook[:2]}"
            raise ArtefactError(f'{error} Or "{command}" fills in what comes before.') from None
        self.inputs = manifests.input_hashes(notebook, self.run_dir, self.parameters)
        self.folder = self.run_dir / notebook
        try:
            self.folder.mkdir(exist_ok=True)
            # Of several processes the first holds the folder for all of them.
            if os.environ.get("RANK", "0") == "0":
                folders.leave_to_its_runner(self.run_dir)
                self._lock = folders.hold(self.folder, wait=15)
        except OSError as error:
            raise folders.unusable(error) from None
        self._start = time.monotonic()

    def _check(self, needed):
        """Raise ArtefactError unless the results of the notebook `needed` are whole and fit."""
        manifest = manifests.read_manifest(self.run_dir, needed)
        if manifest["seed"] != self.parameters["seed"]:
            raise ArtefactError(
                f"{needed} ran with seed {manifest['seed']}, this notebook has seed "
                f"{self.parameters['seed']}: run {needed} again or use its seed."
            )
        for name in manifests.damaged_files(self.run_dir, needed):
            raise ArtefactError(
                f"{needed}/{name} is missing or was changed since {needed} wrote it: "
                f"run {needed} again."
            )
        model_id = manifest["parameters"].get("model_id")
        in_folder = model_id is not None and folders.meant(model_id).is_dir()
        if in_folder and manifest["model"] != weights.identity(model_id):
            raise ArtefactError(
                f"The model in {model_id} has changed since {needed}: run {needed} again."
            )
        for earlier in manifests.NEEDS[needed]:
            there = manifests.read_manifest(self.run_dir, earlier)
            if not manifests.made_from(manifest, earlier, there):
                raise ArtefactError(f"{earlier} was run again after {needed}: run {needed} again.")

    def check_space(self, size):
        """Raise ArtefactError when `size` bytes do not fit on the disk of the run directory."""
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise ArtefactError(
                f"{self.notebook} writes about {resources.readable(size)}, and {self.run_dir} has "
                f"{resources.readable(free)} free: free some space, or use another run directory."
            )

    def earlier(self, notebook):
        """Parameters (dict) with which an earlier notebook ran."""
        return manifests.read_manifest(self.run_dir, notebook)["parameters"]

    def one_process_from_here(self):
        """Let all processes but the first end here; one alone, as in a notebook, goes on."""
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(0)

    def finish(self, leave_out=()):
        """Write the step's manifest, with the hashes of its files, last and atomically.

        leave_out: names of sub-folders that are no results, e.g. checkpoints. Returns
        {file name: bytes}.
        """
        written = files.contents(self.folder, leave_out)
        manifest = {
            "notebook": self.notebook,
            "parameters": {n: v for n, v in self.parameters.items() if n != "run_dir"},
            "seed": self.parameters["seed"],
            "processes": folders.processes(),
            "inputs": self.inputs,
            "model": self._model(),
            "left_out": list(leave_out),
            "files": {name: files.sha256(path) for name, path in written.items()},
            "results": manifests.result_hash(self.folder, leave_out),
            "versions": manifests.versions(),
            "git_commit": _commit(),
            "seconds": round(time.monotonic() - self._start, 1),
            "peak_memory_mb": round(resources.peak_mb()),
        }
        files.write_json(self.folder / "manifest.json", manifest)
        self._lock.release(force=True)
        return {name: path.stat().st_size for name, path in written.items()}

    def _model(self):
        """What names the weights of the base model (str)."""
        if self.notebook == "01_data":
            return weights.identity(self.parameters["model_id"])
        return manifests.read_manifest(self.run_dir, "01_data")["model"]


def _commit():
    """The git commit of the repository, or "" outside git."""
    command = ["git", "-C", str(folders.REPOSITORY), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
