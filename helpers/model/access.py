"""Access to a model on the Hub: gated, unknown, without network, and what to do about each."""

import os

from huggingface_hub import (
    errors,
    get_hf_file_metadata,
    get_token,
    hf_hub_url,
    try_to_load_from_cache,
)

NOT_HERE = "is no folder here nor in the cache, and"


def problem(model_id):
    """Why a model cannot be read and what to do, as the end of a sentence (str); None when it can.

    model_id: a Hub id. Asks the Hub about its config.json, which is gated like the weights; a copy
    in the cache will do without network.
    """
    try:
        # One question, without the retries of a download.
        get_hf_file_metadata(hf_hub_url(model_id, "config.json"))
        return None
    except errors.HFValidationError:
        return "is neither a folder here nor an id of the Hub, which has the form 'owner/name'."
    except errors.GatedRepoError as error:
        return _gated(model_id, error.response.status_code)
    except errors.RepositoryNotFoundError:
        hint = "" if get_token() else ", or run `hf auth login` if it is private or gated"
        return f"is no folder here, and the Hub shows no such model: check the spelling{hint}."
    except errors.RemoteEntryNotFoundError:
        return "has no config.json on the Hub, so it is not a transformers model: choose another."
    except (errors.OfflineModeIsEnabled, errors.HTTPError) as error:
        return _unreached(model_id, error)


def _gated(model_id, status):
    """What to do about a gated model; status: the Hub's HTTP status."""
    page = f"https://huggingface.co/{model_id}"
    if not get_token():
        return (
            f"is gated and you are not signed in: request access on {page}, then run "
            "`hf auth login`."
        )
    if status == 401:
        return _refused_token()
    return (
        f"is gated and your token has no access yet: request it on {page}, or wait for the mail "
        "that grants it; a fine-grained token must also allow public gated repositories."
    )


def _refused_token():
    if os.environ.get("HF_TOKEN"):
        return (
            "cannot be read: the Hub refuses the token in the environment variable HF_TOKEN, which "
            "goes before a login: set a valid one, or unset it and run `hf auth login`."
        )
    return (
        "cannot be read: the Hub refuses your token: make a new one in your settings there, then "
        "run `hf auth login`."
    )


def _unreached(model_id, error):
    """The same as `problem`, where the Hub gave `error` (the client's exception) for an answer."""
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status == 401:
        return _refused_token()
    if isinstance(try_to_load_from_cache(model_id, "config.json"), str):
        return None
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{NOT_HERE} HF_HUB_OFFLINE forbids fetching it: unset that variable."
    if status is None:
        return (
            f"{NOT_HERE} the Hub cannot be reached: check the network (HTTPS_PROXY, if you have "
            "one), or give the folder of a copy."
        )
    if status == 403:
        return (
            "may not be read with your token: allow public gated repositories in its settings, "
            "then run this again."
        )
    return f"{NOT_HERE} the Hub answered {status}: try again later."
