"""What the licence of a base model asks of a model made from it."""

import re
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from helpers.records import folders, weights

# Where the default model comes from, and its licence.
DEFAULT_HUB_ID, DEFAULT_LICENCE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"


def llama_version(base):
    """ "3", "3.1", "3.2" or "3.3" when `base` (Hub id, folder or name) is so named, else None."""
    found = re.search(r"llama[-_ ]?(3(?:[.][1-3])?)(?![\d.])", Path(base).name, re.IGNORECASE)
    return found and found[1]


def name_begins(base):
    """How Meta's licence wants the name of a model made from `base` to begin; "" for other models.

    Section 1.b.i of the Llama 3 licence, https://www.llama.com/llama3/license/, and of those of
    3.1 to 3.3.
    """
    version = llama_version(base)
    if version is None:
        return ""
    return "Llama-3" if version == "3" else "Llama"


def about(model_id):
    """What a model card has to say about the base model, as a dict of str.

    `hub_id`; `name`; `licence`, as the Hub writes it, "unknown" when it cannot be found out;
    `link`, where to read it; `built_with` and `notice`, the lines that sections 1.b.i and 1.b.iii
    of Meta's licences ask for. Without a Hub id or a link these are None, without a line "".
    model_id: as 01 has it: the default model, a folder (its README.md is read) or a Hub id (its
    card is asked for).
    """
    folder = folders.meant(model_id)
    if model_id == weights.DEFAULT_MODEL:
        hub_id, licence = DEFAULT_HUB_ID, DEFAULT_LICENCE
    elif folder.is_dir():
        hub_id, licence = None, _licence_in(folder / "README.md")
    else:
        hub_id, licence = model_id, _licence_at(model_id)
    found = {
        "hub_id": hub_id,
        "name": Path(hub_id or model_id).name,
        "licence": licence,
        "link": None,
        "built_with": "",
        "notice": "",
    }
    version = llama_version(model_id)
    return {**found, **_of_llama(version)} if version else found


def _of_llama(version):
    """What Meta's licence for this version (str) of Llama 3 asks to be said, as `about` has it."""
    owner = "Meta Llama 3" if version == "3" else f"Llama {version}"
    return {
        "licence": f"llama{version}",
        "link": f"https://www.llama.com/llama{version.replace('.', '_')}/license/",
        "built_with": "Built with Meta Llama 3" if version == "3" else "Built with Llama",
        "notice": f"{owner} is licensed under the {owner} Community License, "
        "Copyright © Meta Platforms, Inc. All Rights Reserved.",
    }


def _licence_in(card):
    """The licence that a model card (Path) names, or "unknown"."""
    return (ModelCard.load(card).data.license if card.is_file() else None) or "unknown"


def _licence_at(hub_id):
    """The licence that the card of a model on the Hub names, or "unknown"."""
    try:
        return (HfApi().model_info(hub_id).card_data or {}).get("license") or "unknown"
    except (HTTPError, OfflineModeIsEnabled):  # also: no network
        return "unknown"
