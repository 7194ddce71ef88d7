"""Checkpoints of 03: which one a run that was cut off may go on from."""

import hashlib
import json
import shutil

from helpers import artefacts


def clear(step):
    """Remove the checkpoints of `step` (artefacts.Step) and mark its folder with its settings. Returns None."""
    folder = step.folder / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    artefacts.write_json(folder / "settings.json", {"sha256": _settings(step)})


def newest(step):
    """Path of the newest whole checkpoint that was made with the settings and inputs of `step`, or None.

    Checkpoints of other settings are removed. A checkpoint counts as whole when the Trainer's last file,
    trainer_state.json, is in it.
    """
    folder = step.folder / "checkpoints"
    marker = folder / "settings.json"
    if not marker.is_file() or artefacts.read_json(marker)["sha256"] != _settings(step):
        return clear(step)
    whole = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def _settings(step):
    kept = {name: value for name, value in step.parameters.items() if name not in ("run_dir", "resume")}
    return hashlib.sha256(json.dumps([kept, step.inputs, artefacts.processes()], sort_keys=True).encode()).hexdigest()
