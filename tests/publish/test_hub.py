"""The Hub through the real client: what is refused in a sentence, and what a kill leaves."""

import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import HfApi, ModelCard, constants, errors, get_token
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.model import loading
from helpers.publish import hub, practice_hub
from helpers.records import files, folders, weights

ACCOUNTS = {
    "hf_writes": ("ann", "write"),
    "hf_reads": ("ann", "read"),
    "hf_other": ("ben", "write"),
}
CARD = f"---\ntags:\n- {hub.MARK}\n---\n# A model\n"


@pytest.fixture
def server(tmp_path):
    """A running practice Hub with three tokens, to which the client is turned."""
    with (
        practice_hub.Server(tmp_path / "hub", ACCOUNTS) as running,
        hub.elsewhere(running.endpoint, tmp_path / "home", "hf_writes"),
    ):
        yield running


def client(server, token="hf_writes"):
    return HfApi(endpoint=server.endpoint, token=token)


def model_folder(path, sizes=(3_000_000, 1_000_000)):
    """A folder that looks like a model's: config, card, weights of random bytes in such files."""
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "README.md").write_text(CARD)
    for number, size in enumerate(sizes):
        (path / f"model-{number}.safetensors").write_bytes(random.Random(number).randbytes(size))
    return path


def hashes(folder):
    return {path.name: files.sha256(path) for path in folder.iterdir()}


@contextlib.contextmanager
def refused(said, tmp_path, place="hub"):
    """A `with` block that must end in a HubError, one sentence in which `said` (pattern) is."""
    connected = hub.connection(place, tmp_path, "ann/m")
    with pytest.raises(hub.HubError, match=said) as caught, connected:
        yield
    assert str(caught.value)[0].isupper() and "\n" not in str(caught.value)


def push(api, folder):
    return api.upload_folder(repo_id="ann/m", folder_path=folder)


@pytest.mark.parametrize(
    "token, action, said",
    [
        ("hf_reads", lambda api, folder: api.create_repo("ann/new"), "refuses this token"),
        ("hf_reads", push, "refuses this token"),
        ("hf_other", lambda api, folder: api.create_repo("ann/m"), "refuses this token"),
        ("hf_wrong", lambda api, folder: api.whoami(), "does not know this token"),
        ("hf_wrong", lambda api, folder: api.create_repo("ann/m"), "does not know this token"),
        ("hf_other", push, "There is no ann/m on"),
        ("hf_reads", lambda api, folder: hub.check_role(api.whoami()), "may only read"),
        (
            "hf_writes",
            lambda api, folder: hub.check_target(api.model_info("ann/public"), True),
            "is public",
        ),
        (
            "hf_writes",
            lambda api, folder: hub.check_target(api.model_info("ann/taken"), True),
            "holds something else",
        ),
    ],
)
def test_what_is_refused_is_said_in_one_sentence(server, tmp_path, token, action, said):
    owner, folder = client(server), model_folder(tmp_path / "m")
    for name in ("ann/m", "ann/taken"):
        owner.create_repo(name, private=True)
    owner.create_repo("ann/public", private=False)
    other = b"# Another model"
    owner.upload_file(repo_id="ann/taken", path_or_fileobj=other, path_in_repo="README.md")
    before = hashes(folder)
    with (
        pytest.raises(hub.HubError, match=said) as caught,
        hub.connection("hub", tmp_path, "ann/m"),
    ):
        action(client(server, token), folder)
    assert "\n" not in str(caught.value) and token not in str(caught.value)
    assert hashes(folder) == before
    assert owner.list_repo_files("ann/m") == [".gitattributes"]


def test_a_repository_of_ours_and_a_token_that_writes_are_accepted(server, tmp_path):
    api = client(server)
    api.create_repo("ann/m", private=True)
    hub.check_target(api.model_info("ann/m"), True)
    push(api, model_folder(tmp_path / "m"))
    hub.check_target(api.model_info("ann/m"), True)
    hub.check_role(api.whoami())


RESPONSE = httpx2.Response(500, request=httpx2.Request("GET", "https://hub"))


@pytest.mark.parametrize(
    "error, said",
    [
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"),
        (errors.LocalTokenNotFoundError("no token"), "The Hub needs a token"),
        (errors.RepositoryNotFoundError("none", response=RESPONSE), "There is no ann/m on"),
        (errors.HfHubHTTPError("a fault", response=RESPONSE), "refused the request .a fault"),
        (httpx2.ConnectError("no route"), "cannot be reached any more .no route"),
        (OSError(errno.ENOSPC, "No space", "/media/a"), "left on the disk for /media/a"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "left on the disk for the download"),
        (RuntimeError("Error while uploading 'm'"), "cannot be reached any more .an upload broke"),
    ],
)
def test_errors_and_their_causes_are_said_in_a_sentence(tmp_path, error, said):
    with refused(said, tmp_path):
        raise error
    with refused(said, tmp_path):
        raise RuntimeError("of the client") from error
    with refused(said, tmp_path, "none"):
        try:
            raise error
        except Exception:
            raise KeyError("while that was handled")  # noqa: B904 (as libraries do it)


def test_what_is_not_understood_is_raised_as_it_is(tmp_path):
    with pytest.raises(KeyError, match="a mistake"), hub.connection("none", tmp_path):
        raise KeyError("a mistake")


def test_a_full_disk_of_the_practice_hub_is_said(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    api = client(server)
    api.create_repo("ann/m")
    monkeypatch.setattr(practice_hub, "put_in_place", full)
    with refused("No space is left", tmp_path):
        push(api, model_folder(tmp_path / "m"))
    assert api.list_repo_files("ann/m") == [".gitattributes"]


def test_a_hub_that_goes_away_in_the_middle(server, tmp_path, monkeypatch):
    api, folder = client(server), model_folder(tmp_path / "m")
    api.create_repo("ann/m", private=True)
    before = hashes(folder)

    def go_away(self, chunk):
        server.stop()
        self.request.connection.stream.close()  # at once: so small a body may be here whole

    monkeypatch.setattr(practice_hub.Upload, "data_received", go_away)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with refused("cannot be reached any more", tmp_path):
        push(api, folder)
    assert hashes(folder) == before
    monkeypatch.undo()
    with (
        practice_hub.Server(tmp_path / "hub", ACCOUNTS) as again,
        hub.elsewhere(again.endpoint, tmp_path / "home", "hf_writes"),
    ):
        api = client(again)
        assert api.list_repo_files("ann/m") == [".gitattributes"]
        push(api, folder)
        assert set(before) < set(api.list_repo_files("ann/m"))


PUSH = """
import sys, time
from pathlib import Path
from huggingface_hub import HfApi
from helpers.publish import hub, practice_hub

run_dir, folder, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
received, prepare = practice_hub.Upload.data_received, practice_hub.Handler.prepare

def slowly(self, chunk):
    time.sleep(seconds)
    return received(self, chunk)

def noted(self):
    with (run_dir / "requests.txt").open("a") as stream:
        stream.write(f"{self.request.method} {self.request.uri} {dict(self.request.headers)}\\n")
    return prepare(self)

practice_hub.Upload.data_received, practice_hub.Handler.prepare = slowly, noted
with hub.connection("practice", run_dir, "ann/m") as place:
    api = HfApi(endpoint=place.endpoint, token=place.token)
    api.create_repo("ann/m", private=True, exist_ok=True)
    print(api.upload_folder(repo_id="ann/m", folder_path=folder, delete_patterns="*").oid)
"""


def pushing(run_dir, folder, seconds, **environment):
    """A process that pushes `folder` as ann/m, waiting so many seconds before each piece."""
    (run_dir / "push.py").write_text(PUSH)
    command = [sys.executable, str(run_dir / "push.py"), str(run_dir), str(folder), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(folders.REPOSITORY), **environment}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for_half_a_file(objects, process):
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 100_000 for path in objects.glob(".*")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture
def killed(tmp_path):
    """Folder of a model whose push into `tmp_path` was killed half way."""
    folder = model_folder(tmp_path / "m")
    process = pushing(tmp_path, folder, 0.1)
    wait_for_half_a_file(tmp_path / "practice_hub" / "objects", process)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[0] == ""
    return folder


def test_a_push_killed_half_way_shows_nothing_and_goes_on(tmp_path, killed):
    with hub.connection("practice", tmp_path, "ann/m") as place:
        api = HfApi(endpoint=place.endpoint, token=place.token)
        assert api.list_repo_files("ann/m") == [".gitattributes"]

    # Again, with a saved token of the user's around, of which nothing may be found anywhere.
    users, secret = tmp_path / "users", "hf_" + "Qz7" * 11 + "x"
    users.mkdir()
    for name in ("token", "stored_tokens"):
        (users / name).write_text(secret)
    second = pushing(tmp_path, killed, 0, HF_HOME=str(users), HF_TOKEN=secret)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    commit, cache = out.strip(), hub.empty_cache(tmp_path)
    with hub.connection("practice", tmp_path, "ann/m") as place:
        api = HfApi(endpoint=place.endpoint, token=place.token)
        fetched = api.snapshot_download("ann/m", revision=commit, cache_dir=cache)
    expected = {**hashes(killed), ".gitattributes": files.sha256(f"{fetched}/.gitattributes")}
    assert hub.check_download(cache, "ann/m", commit, expected) == sorted(expected)
    assert not list((tmp_path / "practice_hub" / "objects").glob(".*"))
    requests = (tmp_path / "requests.txt").read_text()
    assert "hf_practice_" in requests and secret not in requests + out + err
    written = [path for path in tmp_path.rglob("*") if path.is_file() and users not in path.parents]
    assert written and not any(secret.encode() in path.read_bytes() for path in written)


def settings():
    """All that the practice changes: huggingface_hub's constants and the environment."""
    named = {name: getattr(constants, name) for name in dir(constants) if name.isupper()}
    return named, dict(os.environ)


def test_practice_leaves_everything_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_users_own")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "users"))
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_users_older")
    monkeypatch.delenv("no_proxy", raising=False)
    before = settings()
    with pytest.raises(ZeroDivisionError), hub.connection("practice", tmp_path) as place:
        assert get_token() == place.token and place.token != "hf_users_own"
        assert place.endpoint == constants.ENDPOINT
        assert "HUGGING_FACE_HUB_TOKEN" not in os.environ
        assert os.environ["no_proxy"] == "127.0.0.1"
        assert HfApi(endpoint=place.endpoint, token=place.token).whoami()["name"] == "you"
        raise ZeroDivisionError
    assert settings() == before
    assert get_token() == "hf_users_own"


def test_a_constant_that_is_gone_is_an_error_before_anything_is_changed(tmp_path, monkeypatch):
    monkeypatch.delattr(constants, "HF_STORED_TOKENS_PATH")
    before = settings()
    turned = hub.elsewhere("http://127.0.0.1:1", tmp_path, "hf_token")
    with pytest.raises(AttributeError, match="HF_STORED_TOKENS_PATH"), turned:
        raise AssertionError("never here")
    assert settings() == before


def test_altered_weights_are_found(tmp_path):
    cache = hub.empty_cache(tmp_path)
    snapshot = cache / "models--ann--m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    right = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    assert hub.check_download(cache, "ann/m", "abc", right) == ["model.safetensors"]
    with pytest.raises(hub.HubError, match=r"model\.safetensors"):
        hub.check_download(cache, "ann/m", "abc", {"model.safetensors": "0" * 64})
    with pytest.raises(hub.HubError, match="no weights"):
        hub.check_download(cache, "ann/m", "abd", right)


def test_a_cache_is_empty_each_time(tmp_path):
    (hub.empty_cache(tmp_path) / "a").touch()
    assert not any(hub.empty_cache(tmp_path).iterdir())


STRANGER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
name, commit = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name, revision=commit)
model = AutoModelForCausalLM.from_pretrained(name, revision=commit)
inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hello"}],
    add_generation_prompt=True,
    return_tensors="pt",
    return_dict=True,
)
out = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
assert "helpers" not in sys.modules and tokenizer.pad_token_id != tokenizer.eos_token_id
print(json.dumps([out, model.generation_config.eos_token_id, tokenizer.pad_token]))
"""


@pytest.mark.slow
def test_a_stranger_loads_what_was_pushed_with_plain_transformers(tiny, server, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    loading.add_pad_row(model, tokenizer)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.save_pretrained(tmp_path / "merged", max_shard_size="5MB")
    tokenizer.save_pretrained(tmp_path / "merged")
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 1
    api = client(server)
    api.create_repo("ann/merged", private=True)
    commit = api.upload_folder(repo_id="ann/merged", folder_path=tmp_path / "merged").oid
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "stranger"),
        "HF_ENDPOINT": server.endpoint,
        "HF_TOKEN": "hf_reads",
    }
    for name in ("PYTHONPATH", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", STRANGER, "ann/merged", commit]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    expected = model.eval().generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
    assert json.loads(done.stdout) == [expected, [tokenizer.eos_token_id], loading.PAD_TOKEN]


@pytest.mark.parametrize(
    "base, name",
    [
        (weights.DEFAULT_MODEL, "ann/SmolLM2-135M-Instruct-lora"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "ann/Llama-3-Meta-Llama-3-8B-Instruct-lora"),
        ("meta-llama/Llama-3.1-8B", "ann/Llama-3-1-8B-lora"),
        ("/models/my model.git", "ann/my-model-lora"),
        ("/models/...", "ann/model-lora"),
    ],
)
def test_a_name_is_made_from_the_base_s(base, name):
    assert hub.choose_name("", "ann", base) == name


def test_a_name_that_the_base_s_licence_forbids_is_refused():
    base = "meta-llama/Meta-Llama-3-8B-Instruct"
    assert hub.choose_name("ann/Llama-3-inbox", "ann", base) == "ann/Llama-3-inbox"
    assert hub.choose_name("ann/inbox", "ann", weights.DEFAULT_MODEL) == "ann/inbox"
    with pytest.raises(hub.HubError, match="begins with Llama-3, for example ann/Llama-3-inbox"):
        hub.choose_name("ann/inbox", "ann", base)


def test_an_adapter_leaves_without_the_path_of_its_base(tmp_path):
    adapter, target = tmp_path / "adapter", tmp_path / "target"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    files.write_json(adapter / "adapter_config.json", {"r": 4, "base_model_name_or_path": "/own"})
    base = {"hub_id": None, "name": "Meta-Llama-3-8B", "notice": "Meta Llama 3 is licensed …"}
    card = ModelCard("---\nlibrary_name: transformers\n---\n# M\n")
    target.mkdir()
    (target / "of an earlier run").touch()
    assert hub.adapter_to_push(adapter, target, base, card) == target
    config = files.read_json(target / "adapter_config.json")
    assert config == {"r": 4, "base_model_name_or_path": "Meta-Llama-3-8B"}
    own = ModelCard.load(target / "README.md")
    assert own.data.library_name == "peft" and "The adapter alone" in own.text and "# M" in own.text
    assert (target / "Notice").read_text() == "Meta Llama 3 is licensed …\n"
    assert (target / "adapter_model.safetensors").read_bytes() == b"weights"
    assert not (target / "of an earlier run").exists()
    base = {"hub_id": "a/b", "name": "b", "notice": ""}
    hub.adapter_to_push(adapter, target, base, card)
    named = files.read_json(target / "adapter_config.json")["base_model_name_or_path"]
    assert named == "a/b" and not (target / "Notice").exists()


def test_signing_in_names_the_account_and_the_repository(tmp_path, capsys):
    assert hub.sign_in("practice", tmp_path, "", "/models/My model") == "you/My-model-lora"
    said = "signed in to the practice Hub on this machine as you; repository: you/My-model-lora\n"
    assert capsys.readouterr().out == said
    assert hub.sign_in("none", tmp_path, "", "x/llama3") == ""
    assert capsys.readouterr().out == "nothing will be pushed\n"
    with pytest.raises(hub.HubError, match="begins with Llama-3"):
        hub.sign_in("practice", tmp_path, "ann/inbox", "x/llama3")


def test_what_is_pushed_is_said_first(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    files.write_json(tmp_path / "source" / "adapter_config.json", {})
    base = {"hub_id": "x/y", "name": "y", "notice": ""}
    chosen = {"push_to": "hub", "push_adapter": True, "hub_private": False}
    step = SimpleNamespace(folder=tmp_path, parameters=chosen)
    merged, source = tmp_path / "merged", tmp_path / "source"
    folders = hub.to_push(step, "ann/m", merged, source, base, ModelCard(CARD))
    assert folders == {"ann/m": merged, "ann/m-adapter": tmp_path / "adapter"}
    said = capsys.readouterr().out
    assert "Sending merged to the PUBLIC repository ann/m on the Hugging Face Hub." in said
    chosen.update(push_to="none")
    assert hub.to_push(step, "ann/m", merged, source, base, ModelCard(CARD)) == {}
    assert not (tmp_path / "adapter").exists()
