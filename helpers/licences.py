"""What the licence of a base model asks of a model made from it."""

import re
from pathlib import Path

from helpers import models

DEFAULT = ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")  # where the default model comes from, and its licence
LINKS = {"3": "llama3", "3.1": "llama3_1", "3.2": "llama3_2", "3.3": "llama3_3"}


def _llama(base):
    """"3", "3.1", "3.2" or "3.3" when `base` (Hub id, folder or name) is a Llama 3 by its name, else None."""
    found = re.search(r"llama[-_ ]?(3(?:[.][1-3])?)(?![\d.])", Path(base).name, re.IGNORECASE)
    return found and found[1]


def built_with(base):
    """("Built with …", how the name has to begin) as Meta's licence of `base` asks, or ("", "") for other models.

    Section 1.b.i of the Llama 3 licence, https://www.llama.com/llama3/license/, and of those of 3.1 to 3.3.
    """
    version = _llama(base)
    if version is None:
        return "", ""
    return ("Built with Meta Llama 3", "Llama-3") if version == "3" else ("Built with Llama", "Llama")


def notice(base):
    """The line that section 1.b.iii of Meta's licence asks for in a file named Notice, or "" for other models."""
    version = _llama(base)
    owner = "Meta Llama 3" if version == "3" else f"Llama {version}"
    licence = f"{owner} is licensed under the {owner} Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."
    return licence if version else ""


def of(model_id):
    """(Hub id of the base model or None, licence as the Hub writes it, where to read it or None).

    model_id: as 01 has it: the default model, a folder (its README.md is read) or a Hub id (its card is asked for).
    A licence that cannot be found out is "unknown": the card then says so.
    """
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if model_id == models.DEFAULT_MODEL:
        return *DEFAULT, None
    folder = Path(model_id).expanduser()
    hub_id = None if folder.is_dir() else model_id
    licence = None
    if (folder / "README.md").is_file():
        licence = ModelCard.load(folder / "README.md").data.license
    elif hub_id:
        try:
            licence = (HfApi().model_info(hub_id).card_data or {}).get("license")
        except (HfHubHTTPError, OfflineModeIsEnabled):
            pass
    version = _llama(model_id)
    if version:
        licence = f"llama{version}"
    return hub_id, licence or "unknown", f"https://www.llama.com/{LINKS[version]}/license/" if version else None
