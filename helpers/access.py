"""Access to a model on the Hub: gated, unknown, without network, and what to do about each."""

import os


def problem(model_id):
    """Why the model `model_id` (a Hub id) cannot be read and what to do, as the end of a sentence; None when it can.

    Fetches its config.json, from the Hub or the cache: a few hundred bytes that are gated like the weights.
    """
    from huggingface_hub import errors, get_token, hf_hub_download

    page, signed_in = f"https://huggingface.co/{model_id}", bool(get_token())
    try:
        hf_hub_download(model_id, "config.json")
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
    except errors.LocalEntryNotFoundError as error:
        return _unreached(error.__cause__)
    except errors.HfHubHTTPError as error:
        return _refused_token() if error.response.status_code == 401 else _unreached(error)


def _refused_token():
    if os.environ.get("HF_TOKEN"):
        return (
            "cannot be read: the Hub refuses the token in the environment variable HF_TOKEN, which goes before a "
            "login: set a valid one, or unset it and run `hf auth login`."
        )
    return "cannot be read: the Hub refuses your token: make a new one in your settings there, then run `hf auth login`."


def _unreached(cause):
    """cause: the client's exception behind a file that is neither in the cache nor to be had, or None."""
    from huggingface_hub import errors

    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "is no folder here nor in the cache, and HF_HUB_OFFLINE forbids to fetch it: unset that variable."
    response = getattr(cause, "response", None)
    if response is None:
        return (
            "is no folder here nor in the cache, and the Hub cannot be reached: check the network "
            "(HTTPS_PROXY, if you have one), or give the folder of a copy."
        )
    if response.status_code == 403:
        return "may not be read with your token: allow public gated repositories in its settings, then run this again."
    return f"is no folder here nor in the cache, and the Hub answered {response.status_code}: try again later."
