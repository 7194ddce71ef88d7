"""Talking to the Hub, the practice one or the real one: where requests go, who asks, and errors in one sentence."""

import errno
import os
import re
import secrets
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import huggingface_hub
from huggingface_hub import constants, errors

from helpers.publish import licences, practice_hub
from helpers.records import files

MARK = "llama3-lora-course"  # a tag in the cards of what the course pushes
OFFLINE = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the Hub may not be asked: unset it and run again."
NO_TOKEN = "The Hub needs a token: run `hf auth login` in a terminal, then run this again."
UNKNOWN_TOKEN = "{hub} does not know this token: run `hf auth login` again (HF_TOKEN, when set, goes before it)."
NOT_ALLOWED = "{hub} refuses this token ({said}): use one with write access to {repo_id}. The merged folder is untouched."
NOT_THERE = "There is no {repo_id} on {hub}, or this token may not see it: check the name, and who is signed in."
REFUSED = "{hub} refused the request ({said}). The merged folder is untouched."
GONE = (
    "{hub} cannot be reached any more ({said}): check the network and run this again. "
    "What has arrived is not sent twice, no half model is visible, and the merged folder is untouched."
)
FULL = "No space is left on the disk for {what}: free some, then run this again. The merged folder is untouched."


class HubError(RuntimeError):
    """Something was refused or went wrong on the way to the Hub or back; the message says what to do."""


@dataclass
class Connection:
    """Where requests go: `endpoint` (URL) and `token`, both None for the user's own Hub account; `name` in words."""

    endpoint: str | None
    token: str | None
    name: str


@contextmanager
def connection(place, run_dir, repo_id=""):
    """A `with` block in which the Hub is the practice Hub, the real one, or none.

    place: "practice", "hub" or "none"; run_dir: Path, the practice Hub keeps its state in `run_dir/practice_hub`;
    repo_id: the account of the practice Hub is called as its owner, or else `you`. Yields a Connection.
    In practice, huggingface_hub's endpoint, home folder, token and cache are others than the user's until the block
    ends. Raises HubError, one sentence, for what the Hub or the way there refuses.
    """
    name = {
        "practice": "the practice Hub on this machine",
        "hub": "the Hugging Face Hub",
        "none": "nowhere",
    }[place]
    try:
        with ExitStack() as stack:
            if place == "practice":
                folder, token = (
                    Path(run_dir) / "practice_hub",
                    f"hf_practice_{secrets.token_hex(12)}",
                )
                accounts = {token: (repo_id.partition("/")[0] or "you", "write")}
                server = stack.enter_context(practice_hub.Server(folder, accounts))
                stack.enter_context(elsewhere(server.endpoint, folder / "home", token))
                yield Connection(server.endpoint, token, name)
            else:
                yield Connection(None, None, name)
    except Exception as error:
        said = _sentence(error, name, repo_id or "the repository")
        if said is None:
            raise
        raise HubError(said[0].upper() + said[1:]) from None


@contextmanager
def elsewhere(endpoint, home, token):
    """huggingface_hub with another endpoint, home and token, and as it was when the block ends.

    It reads the environment once, at import, into `constants`, where its modules and transformers look things up.
    `patch.multiple` raises AttributeError for a name that a later version no longer has.
    """
    replaced = {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,  # it would forbid 127.0.0.1, too
        "HF_HUB_DISABLE_XET": True,  # the practice Hub speaks the older protocol for large files
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    environment = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with patch.dict(os.environ, environment), patch.multiple(constants, **replaced):
        for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            os.environ.pop(name, None)  # patch.dict puts it back
        huggingface_hub.close_session()  # the open one may know a proxy
        try:
            yield
        finally:
            huggingface_hub.close_session()


def _sentence(error, hub, repo_id):
    """What to tell the learner about `error` or the first of its causes that is understood; None if none is."""
    import httpx2

    broke_off = False
    while error is not None:
        response = getattr(error, "response", None)
        said = getattr(error, "server_message", None) or " ".join(str(error).split())[:160]
        if isinstance(error, errors.OfflineModeIsEnabled):
            return OFFLINE
        if isinstance(error, errors.LocalTokenNotFoundError):
            return NO_TOKEN
        if isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)):
            return NOT_THERE.format(hub=hub, repo_id=repo_id)
        if isinstance(error, errors.HfHubHTTPError) and response is not None:
            if response.status_code == 507:
                return FULL.format(what=hub)
            template = {401: UNKNOWN_TOKEN, 403: NOT_ALLOWED}.get(response.status_code, REFUSED)
            return template.format(hub=hub, repo_id=repo_id, said=said)
        if isinstance(error, httpx2.TransportError):
            return GONE.format(hub=hub, said=said)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return FULL.format(what=error.filename or "the download")
        # The client hides causes here: of its upload threads, one may close the connection that another is about to use.
        broke_off = broke_off or (
            isinstance(error, RuntimeError) and said.startswith("Error while uploading")
        )
        error = error.__cause__ or error.__context__
    return GONE.format(hub=hub, said="an upload broke off") if broke_off else None


def choose_name(repo_id, account, base):
    """The repository to push to (str): `repo_id`, or else a name made from the base model's in this account.

    base: Hub id or folder of the base model. Raises HubError for a name that the licence of the base forbids.
    """
    prefix = licences.name_begins(base)
    if not repo_id:
        last = (
            re.sub(r"[^A-Za-z0-9_]+", "-", Path(base).name.removesuffix(".git")).strip("-")[:80]
            or "model"
        )
        begins = not prefix or last.lower().startswith(prefix.lower())
        return f"{account}/{last if begins else f'{prefix}-{last}'}-lora"
    owner, _, name = repo_id.partition("/")
    if not name.lower().startswith(prefix.lower()):
        raise HubError(
            f"hub_repo_id was {repo_id!r}, but the licence of the base model asks for a name that begins with {prefix}, "
            f"for example {owner}/{prefix}-{name}."
        )
    return repo_id


def adapter_to_push(adapter, target, base, card):
    """Copy an adapter folder to `target` (Path, returned) as it may leave this machine, with a card of its own.

    base: what `licences.about` says of the base model, named in the config in place of a path; card: ModelCard of the
    merged model.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(adapter, target)
    config = {
        **files.read_json(target / "adapter_config.json"),
        "base_model_name_or_path": base["hub_id"] or base["name"],
    }
    files.write_json(target / "adapter_config.json", config)
    own = huggingface_hub.ModelCard(str(card))
    own.data.library_name = "peft"
    own.text = f"\nThe adapter alone, without its base. The card of the merged model:\n{own.text}"
    own.save(target / "README.md")
    if base["notice"]:
        (target / "Notice").write_text(base["notice"] + "\n", encoding="utf-8")
    return target


def check_target(info, private):
    """Refuse a repository (huggingface_hub's ModelInfo) that is public when `private` is asked, or holds something else."""
    if private and not info.private:
        raise HubError(
            f"hub_repo_id {info.id} exists and is public, but hub_private is true: choose another name, or set "
            "hub_private to false. Nothing was sent."
        )
    holds = {file.rfilename for file in info.siblings} - {".gitattributes"}
    if holds and MARK not in (info.tags or []):
        raise HubError(
            f"hub_repo_id {info.id} is taken: it holds something else. Choose another name. Nothing was sent."
        )


def check_role(who):
    """Refuse a read-only token; who: the answer of `HfApi.whoami`."""
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError("This token may only read: use one with write access. Nothing was sent.")


def empty_cache(folder):
    """An empty folder (Path) inside `folder` for a download that must not find anything there."""
    cache = Path(folder) / ".download"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    return cache


def check_download(cache, repo_id, commit, expected):
    """Names of the files of a commit in `cache`, each compared by SHA-256 with `expected` ({name: SHA-256}).

    Raises HubError when one differs, or no weights are among them.
    """
    snapshot = Path(cache) / f"models--{repo_id.replace('/', '--')}" / "snapshots" / commit
    found = {
        p.relative_to(snapshot).as_posix(): files.sha256(p)
        for p in sorted(snapshot.rglob("*"))
        if p.is_file()
    }
    wrong = [name for name, sha256 in found.items() if expected.get(name) != sha256]
    if wrong or not any(name.endswith(".safetensors") for name in found):
        raise HubError(
            f"What came back from {repo_id} is not what 04 saved ({', '.join(wrong) or 'no weights'}): push again."
        )
    return sorted(found)
