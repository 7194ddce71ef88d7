"""Talking to the Hub, the practice one or the real one: where requests go, who asks, what fails.

Whatever the Hub or the way there refuses becomes a HubError, whose message is one sentence.
"""

import errno
import os
import re
import secrets
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors

from helpers.publish import licences, practice_hub
from helpers.records import files

MARK = "llama3-lora-course"  # a tag in the cards of what the course pushes
NAMES = {
    "practice": "the practice Hub on this machine",
    "hub": "the Hugging Face Hub",
    "none": "nowhere",
}

OFFLINE = (
    "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the Hub may not be asked: unset it and run "
    "again."
)
NO_TOKEN = "The Hub needs a token: run `hf auth login` in a terminal, then run this again."
UNKNOWN_TOKEN = (
    "{hub} does not know this token: run `hf auth login` again "
    "(HF_TOKEN, when set, goes before it)."
)
NOT_ALLOWED = (
    "{hub} refuses this token ({reason}): use one with write access to {repo_id}. "
    "The merged folder is untouched."
)
NOT_THERE = (
    "There is no {repo_id} on {hub}, or this token may not see it: check the name, and who is "
    "signed in."
)
REFUSED = "{hub} refused the request ({reason}). The merged folder is untouched."
UNREACHABLE = (
    "{hub} cannot be reached any more ({reason}): check the network and run this again. What has "
    "arrived is not sent twice, no half model is visible, and the merged folder is untouched."
)
DISK_FULL = (
    "No space is left on the disk for {what}: free some, then run this again. "
    "The merged folder is untouched."
)
DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class HubError(RuntimeError):
    """Something was refused or went wrong on the way to the Hub; the message says what to do."""


@dataclass
class Connection:
    """Where requests go: `endpoint` (URL), `token`, and `name` in words.

    The first two are None for the user's own Hub account.
    """

    endpoint: str | None
    token: str | None
    name: str


@contextmanager
def connection(place, run_dir, repo_id=""):
    """A `with` block in which the Hub is the practice Hub, the real one, or none.

    place: "practice", "hub" or "none"; run_dir: Path, the practice Hub keeps its state in
    `run_dir/practice_hub`; repo_id: the account of the practice Hub is called as its owner, or else
    `you`. Yields a Connection. In practice, huggingface_hub's endpoint, home folder, token and
    cache are others than the user's until the block ends.
    Raises HubError, one sentence, for what the Hub or the way there refuses.
    """
    name = NAMES[place]
    try:
        with ExitStack() as stack:
            if place == "practice":
                folder = Path(run_dir) / "practice_hub"
                token = f"hf_practice_{secrets.token_hex(12)}"
                accounts = {token: (repo_id.partition("/")[0] or "you", "write")}
                server = stack.enter_context(practice_hub.Server(folder, accounts))
                stack.enter_context(elsewhere(server.endpoint, folder / "home", token))
                yield Connection(server.endpoint, token, name)
            else:
                yield Connection(None, None, name)
    except Exception as error:
        sentence = _sentence(error, name, repo_id or "the repository")
        if sentence is None:
            raise
        raise HubError(sentence[0].upper() + sentence[1:]) from None


@contextmanager
def elsewhere(endpoint, home, token):
    """huggingface_hub with another endpoint, home and token, and as it was when the block ends.

    It reads the environment once, at import, into `constants`, where its modules and transformers
    look things up. endpoint: URL; home: Path. Raises AttributeError, before anything is changed,
    for a constant that a later version no longer has.
    """
    constants_here = {
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
    environment_here = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HUGGING_FACE_HUB_TOKEN": None,
        "HF_OIDC_RESOURCE": None,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    constants_before = {name: getattr(constants, name) for name in constants_here}
    environment_before = {name: os.environ.get(name) for name in environment_here}
    try:
        _set_constants(constants_here)
        _set_environment(environment_here)
        huggingface_hub.close_session()  # the open one may know a proxy
        yield
    finally:
        _set_constants(constants_before)
        _set_environment(environment_before)
        huggingface_hub.close_session()


def _set_constants(values):
    """Set constants of huggingface_hub to `values`, a {name: value}."""
    for name, value in values.items():
        setattr(constants, name, value)


def _set_environment(values):
    """Set environment variables to `values`, a {name: text}; None unsets one."""
    for name, text in values.items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text


def _sentence(error, hub, repo_id):
    """What to tell the learner about `error` or the first of its causes that is understood.

    hub: the Hub's name in words. None when no cause is understood.
    """
    broke_off = False
    while error is not None:
        sentence = _sentence_for(error, hub, repo_id)
        if sentence is not None:
            return sentence
        # The client hides causes here: of its upload threads, one may close the connection that
        # another is about to use.
        if isinstance(error, RuntimeError) and str(error).startswith("Error while uploading"):
            broke_off = True
        error = error.__cause__ or error.__context__
    return UNREACHABLE.format(hub=hub, reason="an upload broke off") if broke_off else None


def _sentence_for(error, hub, repo_id):
    """What to tell the learner about this very error, or None."""
    reason = getattr(error, "server_message", None) or " ".join(str(error).split())[:160]
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OFFLINE
    if isinstance(error, errors.LocalTokenNotFoundError):
        return NO_TOKEN
    if isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)):
        return NOT_THERE.format(hub=hub, repo_id=repo_id)
    response = getattr(error, "response", None)
    if isinstance(error, errors.HfHubHTTPError) and response is not None:
        if response.status_code == 507:
            return DISK_FULL.format(what=hub)
        template = {401: UNKNOWN_TOKEN, 403: NOT_ALLOWED}.get(response.status_code, REFUSED)
        return template.format(hub=hub, repo_id=repo_id, reason=reason)
    if isinstance(error, httpx2.TransportError):
        return UNREACHABLE.format(hub=hub, reason=reason)
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRORS:
        return DISK_FULL.format(what=error.filename or "the download")
    return None


def sign_in(place, run_dir, repo_id, base):
    """Ask the Hub who we are, before any work, and print it; returns the repository to push to.

    place, run_dir, repo_id: as in `connection`; base: Hub id or folder of the base model. Returns
    `repo_id` unchanged when nothing is to be pushed. Raises HubError for a token that is missing,
    unknown or may only read, and for a name that is not allowed.
    """
    if place == "none":
        print("nothing will be pushed")
        return repo_id
    with connection(place, run_dir, repo_id) as connected:
        who = huggingface_hub.HfApi(endpoint=connected.endpoint, token=connected.token).whoami()
    check_role(who)
    name = choose_name(repo_id, who["name"], base)
    print(f"signed in to {connected.name} as {who['name']}; repository: {name}")
    return name


def choose_name(repo_id, account, base):
    """The repository to push to (str): `repo_id`, or else a name made from the base model's.

    account: whose it is then; base: Hub id or folder of the base model. Raises HubError for a name
    that the licence of the base forbids.
    """
    prefix = licences.name_begins(base)
    if not repo_id:
        letters = re.sub(r"[^A-Za-z0-9_]+", "-", Path(base).name.removesuffix(".git"))
        name = letters.strip("-")[:80] or "model"
        if not name.lower().startswith(prefix.lower()):
            name = f"{prefix}-{name}"
        return f"{account}/{name}-lora"
    owner, _, name = repo_id.partition("/")
    if not name.lower().startswith(prefix.lower()):
        raise HubError(
            f"hub_repo_id was {repo_id!r}, but the licence of the base model asks for a name that "
            f"begins with {prefix}, for example {owner}/{prefix}-{name}."
        )
    return repo_id


def to_push(step, repo_id, merged, adapter, base, card):
    """What is pushed where, {repository: folder}, after saying so; empty for push_to "none".

    step: 04's Step; repo_id: "account/name"; merged, adapter: Paths; base: what `licences.about`
    says of the base model; card: ModelCard.
    """
    push_to, own_folder = step.parameters["push_to"], step.folder / "adapter"
    shutil.rmtree(own_folder, ignore_errors=True)
    if push_to == "none":
        return {}
    folders = {repo_id: merged}
    if step.parameters["push_adapter"]:
        folders[f"{repo_id}-adapter"] = adapter_to_push(adapter, own_folder, base, card)
    seen_by = "private" if step.parameters["hub_private"] else "PUBLIC"
    for name, folder in folders.items():
        print(f"Sending {folder.name} to the {seen_by} repository {name} on {NAMES[push_to]}.")
    return folders


def adapter_to_push(adapter, target, base, card):
    """Copy an adapter's folder to `target` as it may leave this machine, with a card of its own.

    adapter, target: Paths, the latter is returned; base: what `licences.about` says of the base
    model, named in the config in place of a path; card: ModelCard of the merged model.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(adapter, target)
    config = files.read_json(target / "adapter_config.json")
    config["base_model_name_or_path"] = base["hub_id"] or base["name"]
    files.write_json(target / "adapter_config.json", config)
    own = huggingface_hub.ModelCard(str(card))
    own.data.library_name = "peft"
    own.text = f"\nThe adapter alone, without its base. The card of the merged model:\n{own.text}"
    own.save(target / "README.md")
    if base["notice"]:
        (target / "Notice").write_text(base["notice"] + "\n", encoding="utf-8")
    return target


def check_target(info, private):
    """Refuse a repository that others could read against our will, or that holds something else.

    info: huggingface_hub's ModelInfo of it; private: whether it is to be. Raises HubError.
    """
    if private and not info.private:
        raise HubError(
            f"hub_repo_id {info.id} exists and is public, but hub_private is true: choose another "
            "name, or set hub_private to false. Nothing was sent."
        )
    held = {file.rfilename for file in info.siblings} - {".gitattributes"}
    if held and MARK not in (info.tags or []):
        raise HubError(
            f"hub_repo_id {info.id} is taken: it holds something else. Choose another name. "
            "Nothing was sent."
        )


def check_role(who):
    """Raise HubError for a read-only token; who: the answer of `HfApi.whoami`."""
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError("This token may only read: use one with write access. Nothing was sent.")


def empty_cache(folder):
    """An empty folder (Path) inside `folder` for a download that must not find anything there."""
    cache = Path(folder) / ".download"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    return cache


def check_download(cache, repo_id, commit, expected):
    """Compare what was downloaded with what was saved, by SHA-256.

    cache: the download's cache folder; commit: what was downloaded (its id); expected:
    {name: SHA-256}. Returns the files' names (list of str). Raises HubError when one differs, or
    no weights are among them.
    """
    snapshot = Path(cache) / f"models--{repo_id.replace('/', '--')}" / "snapshots" / commit
    found = {}
    for path in sorted(snapshot.rglob("*")):
        if path.is_file():
            found[path.relative_to(snapshot).as_posix()] = files.sha256(path)
    wrong = [name for name, sha256 in found.items() if expected.get(name) != sha256]
    if wrong or not any(name.endswith(".safetensors") for name in found):
        raise HubError(
            f"What came back from {repo_id} is not what 04 saved "
            f"({', '.join(wrong) or 'no weights'}): push again."
        )
    return sorted(found)
