"""What the licence of a base model asks of a model made from it."""

import re
from pathlib import Path

from helpers.records import weights

DEFAULT = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "apache-2.0",
)  # where the default model comes from, and its licence


def llama_version(base):
    """ "3", "3.1", "3.2" or "3.3" when `base` (Hub id, folder or name) is a Llama 3 by its name, else None."""
    found = re.search(r"llama[-_ ]?(3(?:[.][1-3])?)(?![\d.])", Path(base).name, re.IGNORECASE)
    return found and found[1]


def name_begins(base):
    """How Meta's licence of `base` wants the name of a model made from it to begin; "" for other models.

    Section 1.b.i of the Llama 3 licence, https://www.llama.com/llama3/license/, and of those of 3.1 to 3.3.
    """
    version = llama_version(base)
    return "" if version is None else "Llama-3" if version == "3" else "Llama"


def about(model_id):
    """What a model card has to say about the base model. A dict of str; None where there is nothing to say:

    `hub_id`; `name`; `licence`, as the Hub writes it, "unknown" when it cannot be found out; `link`, where to read it;
    `built_with` and `notice`, the lines that sections 1.b.i and 1.b.iii of Meta's licences ask for, "" for others.
    model_id: as 01 has it: the default model, a folder (its README.md is read) or a Hub id (its card is asked for).
    """
    if model_id == weights.DEFAULT_MODEL:
        found = dict(zip(("hub_id", "licence"), DEFAULT, strict=True))
    elif Path(model_id).expanduser().is_dir():
        found = {"hub_id": None, "licence": _licence_in(Path(model_id).expanduser() / "README.md")}
    else:
        found = {"hub_id": model_id, "licence": _licence_at(model_id)}
    found |= {
        "name": Path(found["hub_id"] or model_id).name,
        "link": None,
        "built_with": "",
        "notice": "",
    }
    version = llama_version(model_id)
    if version:
        owner = "Meta Llama 3" if version == "3" else f"Llama {version}"
        found |= {
            "licence": f"llama{version}",
            "link": f"https://www.llama.com/llama{version.replace('.', '_')}/license/",
            "built_with": "Built with Meta Llama 3" if version == "3" else "Built with Llama",
            "notice": f"{owner} is licensed under the {owner} Community License, Copyright © Meta Platforms, Inc. "
            "All Rights Reserved.",
        }
    return found


def _licence_in(card):
    from huggingface_hub import ModelCard

    return (ModelCard.load(card).data.license if card.is_file() else None) or "unknown"


def _licence_at(hub_id):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        return (HfApi().model_info(hub_id).card_data or {}).get("license") or "unknown"
    except (HTTPError, OfflineModeIsEnabled):  # also: no network
        return "unknown"
