"""Checkpoints of 03: from which one a run that was cut off goes on, and that it ends the same."""

import hashlib
import json
import shutil

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from helpers.records import damage, files, folders

# What the Trainer needs to go on; one of each group. FSDP deals weights and optimizer out into
# files of other names.
PARTS = (
    ("trainer_state.json",),
    ("scheduler.pt",),
    ("rng_state*.pth",),
    ("optimizer*",),
    ("adapter_model.safetensors", "pytorch_model_fsdp*"),
)


class SameAfterResume(TrainerCallback):
    """Makes a training that went on from a checkpoint equal to one that was never stopped.

    The order of the rows in an epoch is drawn from the seed and the epoch's number: drawn from the
    state of torch's generator, it would be another one after a start in the middle. The loss is
    logged before each checkpoint, because the Trainer does not store what it has summed up since.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        sampler = train_dataloader.batch_sampler
        while not hasattr(sampler, "sampler"):  # accelerate's share for this process
            sampler = sampler.batch_sampler
        epoch = int(round(state.epoch or 0, 6))
        sampler.sampler.generator = torch.Generator().manual_seed(args.seed + epoch)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log = control.should_log or control.should_save


def make_repeatable(trainer):
    """Let `trainer` end the same after a break as without one, on any number of processes."""
    trainer.add_callback(SameAfterResume())
    trainer.accelerator.rng_types = ["torch"]  # the processes draw one order of the rows


def start_from(step, resume):
    """What `trainer.train(resume_from_checkpoint=…)` takes: a checkpoint's path (str), or None.

    step: steps.Step of 03; resume: whether a training that was cut off may go on. Says which it is.
    """
    with PartialState().main_process_first():
        checkpoint = newest(step) if resume else clear(step)
    print("starting from", checkpoint.name if checkpoint else "the base model")
    return str(checkpoint) if checkpoint else None


def clear(step):
    """Remove the checkpoints of `step` (steps.Step) and note its settings there; returns None."""
    folder = step.folder / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files.write_json(folder / "settings.json", {"sha256": _settings(step)})


def newest(step):
    """Path of the newest whole checkpoint made with the settings and inputs of `step`, or None.

    Checkpoints of other settings are removed, and so are broken ones, with a printed line that says
    what was wrong.
    """
    folder = step.folder / "checkpoints"
    try:
        same = files.read_json(folder / "settings.json")["sha256"] == _settings(step)
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        return clear(step)
    made = {int(path.name.split("-")[1]): path for path in folder.glob("checkpoint-*")}
    for _, path in sorted(made.items(), reverse=True):
        wrong = broken(path)
        if not wrong:
            return path
        print(f"{path.name} is not whole ({wrong}): it is left out, and the one before is used.")
        shutil.rmtree(path)
    return None


def broken(checkpoint):
    """What is wrong with a checkpoint (Path), e.g. "optimizer.pt is cut off"; "" when whole."""
    for names in PARTS:
        if not any(next(checkpoint.glob(name), None) for name in names):
            return f"{names[0].replace('*', '')} is missing"
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        if damage.damaged(path):
            return f"{path.name} is cut off or damaged"
    return ""


def _settings(step):
    """One hash (str) over the parameters and inputs that decide what a training does."""
    kept = {n: v for n, v in step.parameters.items() if n not in ("run_dir", "resume")}
    about = [kept, step.inputs, folders.processes()]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
