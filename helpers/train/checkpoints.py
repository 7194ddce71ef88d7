"""Checkpoints of 03: which one a run that was cut off may go on from, and that it then does the same as without the cut."""

import hashlib
import json
import shutil

import torch
from transformers import TrainerCallback

from helpers.records import damage, files, folders

# What the Trainer needs to go on; one of each group. FSDP deals weights and optimizer out into files of other names.
PARTS = (
    ("trainer_state.json",),
    ("scheduler.pt",),
    ("rng_state*.pth",),
    ("optimizer*",),
    ("adapter_model.safetensors", "pytorch_model_fsdp*"),
)


class SameAfterResume(TrainerCallback):
    """Makes a training that went on from a checkpoint equal to one that was never stopped.

    The rows' order of an epoch is drawn from the seed and the epoch's number: drawn from the state of torch's
    generator, it would be another one after a start in the middle. The loss is logged before each checkpoint,
    because the Trainer does not store what it has summed up since the last log.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        sampler = train_dataloader.batch_sampler
        while not hasattr(sampler, "sampler"):  # accelerate's share for this process
            sampler = sampler.batch_sampler
        sampler.sampler.generator = torch.Generator().manual_seed(
            args.seed + int(round(state.epoch or 0, 6))
        )

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log = control.should_log or control.should_save


def clear(step):
    """Remove the checkpoints of `step` (steps.Step) and mark its folder with its settings. Returns None."""
    folder = step.folder / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files.write_json(folder / "settings.json", {"sha256": _settings(step)})


def newest(step):
    """Path of the newest whole checkpoint that was made with the settings and inputs of `step`, or None.

    Checkpoints of other settings are removed, and so are broken ones, with a printed line that says what was wrong.
    """
    folder = step.folder / "checkpoints"
    try:
        same = files.read_json(folder / "settings.json")["sha256"] == _settings(step)
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        return clear(step)
    for path in sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True
    ):
        wrong = broken(path)
        if not wrong:
            return path
        print(f"{path.name} is not whole ({wrong}): it is left out, and the one before is used.")
        shutil.rmtree(path)
    return None


def broken(checkpoint):
    """What is wrong with a checkpoint folder (Path), e.g. "optimizer.pt is cut off", or "" when it is whole."""
    for names in PARTS:
        if not any(next(checkpoint.glob(name), None) for name in names):
            return f"{names[0].replace('*', '')} is missing"
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        if damage.damaged(path):
            return f"{path.name} is cut off or damaged"
    return ""


def _settings(step):
    kept = {
        name: value for name, value in step.parameters.items() if name not in ("run_dir", "resume")
    }
    return hashlib.sha256(
        json.dumps([kept, step.inputs, folders.processes()], sort_keys=True).encode()
    ).hexdigest()
