"""Access to a model on the Hub: gated, unknown, without network, and what to do about each."""

import os


def problem(model_id):
    """Why the model `model_id` (a Hub id) cannot be read and what to do, as the end of a sentence; None when it can.

    Asks the Hub about its config.json, which is gated like the weights; a copy in the cache will do without network.
    """
    from huggingface_hub import (
        errors,
        get_hf_file_metadata,
        get_token,
        hf_hub_url,
        try_to_load_from_cache,
    )

    page, signed_in = f"https://huggingface.co/{model_id}", bool(get_token())
    try:
        get_hf_file_metadata(
            hf_hub_url(model_id, "config.json")
        )  # one question, without the retries of a download
        return None
    except errors.HFValidationError:
        return "is neither a folder here nor an id of the Hub, which has the form 'owner/name'."
    except errors.GatedRepoError as error:
        if not signed_in:
            return f"is gated and you are not signed in: request access on {page}, then run `hf auth login`."
        if error.response.status_code == 401:
            return _refused_token()
        return (
            f"is gated and your token has no access yet: request it on {page}, or wait for the mail that grants it; "
            "a fine-grained token must also allow public gated repositories."
        )
    except errors.RepositoryNotFoundError:
        hint = "" if signed_in else ", or run `hf auth login` if it is private or gated"
        return f"is no folder here, and the Hub shows no such model: check the spelling{hint}."
    except errors.RemoteEntryNotFoundError:
        return "has no config.json on the Hub, so it is not a transformers model: choose another."
    except (errors.OfflineModeIsEnabled, errors.HTTPError) as error:
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
        if status == 401:
            return _refused_token()
        return (
            None
            if isinstance(try_to_load_from_cache(model_id, "config.json"), str)
            else _unreached(error, status)
        )


def _refused_token():
    if os.environ.get("HF_TOKEN"):
        return (
            "cannot be read: the Hub refuses the token in the environment variable HF_TOKEN, which goes before a "
            "login: set a valid one, or unset it and run `hf auth login`."
        )
    return "cannot be read: the Hub refuses your token: make a new one in your settings there, then run `hf auth login`."


def _unreached(error, status):
    """error: the client's exception; status: the Hub's HTTP status, None when it did not answer."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "is no folder here nor in the cache, and HF_HUB_OFFLINE forbids to fetch it: unset that variable."
    if status is None:
        return (
            "is no folder here nor in the cache, and the Hub cannot be reached: check the network "
            "(HTTPS_PROXY, if you have one), or give the folder of a copy."
        )
    if status == 403:
        return "may not be read with your token: allow public gated repositories in its settings, then run this again."
    return f"is no folder here nor in the cache, and the Hub answered {status}: try again later."
