"""The folder that leaves this machine: a merged model, its tokenizer and its card."""

import shutil

import pandas as pd
from transformers import AutoConfig

from helpers.model import memory


def size(model_folder):
    """Bytes of a model's weights in the type its files have, from its config alone.

    model_folder: a folder or a Hub id.
    """
    config = AutoConfig.from_pretrained(model_folder)
    precision = str(config.dtype or "float32").removeprefix("torch.")
    linear, others = memory.shapes(config)
    return memory.weights(linear, others, "none", precision)["weights"]


def check_space(step, model_folder):
    """Raise ArtefactError unless the disk holds two merges, and what the practice Hub keeps.

    step: 04's Step; model_folder: the base's, or its Hub id.
    """
    copies = 3 if step.parameters["push_to"] == "practice" else 2
    step.check_space(copies * size(model_folder))


def trial(folder, weights):
    """An empty folder (Path) in `folder` for the merge into these weights (str)."""
    path = folder / ".trials" / weights
    shutil.rmtree(path, ignore_errors=True)  # of a run that was cut off
    path.mkdir(parents=True)
    return path


def assemble(trial, merged, tokenizer, card, notice=""):
    """Make a merge the folder `merged`, which appears there whole.

    trial: Path of the merge, whose folder is used up, with the other merges beside it; merged:
    Path; tokenizer: saved with it; card: ModelCard; notice: text of a file that some licences ask
    for.
    """
    part = merged.with_name(".merged-part")
    shutil.rmtree(part, ignore_errors=True)
    trial.rename(part)
    for name in ("is_local", "local_files_only"):  # they say where it was loaded from here
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(part)
    card.save(part / "README.md")
    if notice:
        (part / "Notice").write_text(notice + "\n", encoding="utf-8")
    shutil.rmtree(merged, ignore_errors=True)
    part.rename(merged)
    shutil.rmtree(trial.parent)


def sizes(folder):
    """A DataFrame of the files in `folder` (Path) and their sizes in MB."""
    found = {path.name: path.stat().st_size / 1e6 for path in sorted(folder.iterdir())}
    return pd.Series(found, name="MB").round(2).to_frame()
