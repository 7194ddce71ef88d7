"""The practice Hub through the real client: what arrives, who may see it, what a kill or a refusal leaves; the merge's check."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub import HfApi, constants, get_token
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed

from helpers.evaluate import asking
from helpers.model import loading
from helpers.publish import hub, licences, merge_check, practice_hub
from helpers.records import files, folders, parameters, weights

ACCOUNTS = {
    "hf_writes": ("ann", "write"),
    "hf_reads": ("ann", "read"),
    "hf_other": ("ben", "write"),
}
CARD = f"---\ntags:\n- {hub.MARK}\n---\n# A model\n"


@pytest.fixture
def server(tmp_path):
    """A running practice Hub with three tokens, and the client turned to it; `server.api(token)` is a client."""
    with (
        practice_hub.Server(tmp_path / "hub", ACCOUNTS) as running,
        hub.elsewhere(running.endpoint, tmp_path / "home", "hf_writes"),
    ):
        running.api = lambda token: HfApi(endpoint=running.endpoint, token=token)
        yield running


def model_folder(path, sizes=(3_000_000, 1_000_000)):
    """A folder that looks like a model's: config, card, weights of random bytes in files of these sizes."""
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "README.md").write_text(CARD)
    for number, size in enumerate(sizes):
        (path / f"model-{number}.safetensors").write_bytes(random.Random(number).randbytes(size))
    return path


def hashes(folder):
    return {
        p.relative_to(folder).as_posix(): files.sha256(p) for p in folder.rglob("*") if p.is_file()
    }


def test_every_file_comes_back_as_it_was_sent(server, tmp_path):
    source, dice = tmp_path / "source", random.Random(0)
    for number in range(200):
        folder = source / dice.choice(["", "sub", "sub/deep er", "ü"])
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{dice.choice(['a', 'b c', 'ß%20', 'q+&='])}{number}{dice.choice(['', '.txt', '.json', '.bin', '.safetensors'])}"
        (folder / name).write_bytes(
            dice.randbytes(dice.choice([0, 0, 1, 511, 512, 513, 65_536, 70_001, 300_000]))
        )
    (source / "large.txt").write_bytes(dice.randbytes(12_000_000))  # large by its size alone
    api = server.api("hf_writes")
    api.create_repo("ann/files", private=True)
    first = api.upload_folder(
        repo_id="ann/files", folder_path=source, delete_patterns="*", commit_message="all"
    ).oid
    fetched = tmp_path / "fetched"
    api.snapshot_download("ann/files", revision=first, local_dir=fetched)
    assert {
        n: h for n, h in hashes(fetched).items() if not n.startswith((".cache", ".gitattributes"))
    } == hashes(source)

    sent = {path.name for path in (tmp_path / "hub" / "objects").iterdir()}
    (source / "large.txt").unlink()
    second = api.upload_folder(
        repo_id="ann/files", folder_path=source, delete_patterns="*", commit_message="less"
    ).oid
    assert "large.txt" not in api.list_repo_files("ann/files", revision=second)
    assert "large.txt" in api.list_repo_files("ann/files", revision=first)
    assert {
        path.name for path in (tmp_path / "hub" / "objects").iterdir()
    } == sent  # nothing was sent twice


def test_an_interrupted_download_goes_on(server, tmp_path):
    api = server.api("hf_writes")
    api.create_repo("ann/m")
    oid = api.upload_folder(
        repo_id="ann/m", folder_path=model_folder(tmp_path / "m"), commit_message="m"
    ).oid
    import httpx2

    answer = httpx2.get(
        f"{server.endpoint}/ann/m/resolve/{oid}/model-0.safetensors",
        headers={"Range": "bytes=2999000-"},
    )
    whole = (tmp_path / "m" / "model-0.safetensors").read_bytes()
    assert answer.status_code == 206 and answer.content == whole[2_999_000:]
    assert server.endpoint.startswith("http://127.0.0.1:")


def test_a_private_repository_is_there_for_its_owner_only(server, tmp_path):
    api = server.api("hf_writes")
    api.create_repo("ann/secret", private=True)
    api.create_repo("ann/open", private=False)
    oid = api.upload_folder(
        repo_id="ann/secret", folder_path=model_folder(tmp_path / "m"), commit_message="m"
    ).oid
    there = {
        token: (
            server.api(token).repo_exists("ann/secret"),
            server.api(token).repo_exists("ann/open"),
        )
        for token in ("hf_writes", "hf_reads", "hf_other", False)
    }
    assert there == {
        "hf_writes": (True, True),
        "hf_reads": (True, True),
        "hf_other": (False, True),
        False: (False, True),
    }
    for token in ("hf_other", False, "hf_wrong"):
        with pytest.raises(OSError):
            AutoTokenizer.from_pretrained(
                "ann/secret", revision=oid, token=token, cache_dir=tmp_path / "cache"
            )


@pytest.mark.parametrize(
    "token, action, said",
    [
        ("hf_reads", lambda api, folder: api.create_repo("ann/new"), "refuses this token"),
        (
            "hf_reads",
            lambda api, folder: api.upload_folder(repo_id="ann/m", folder_path=folder),
            "refuses this token",
        ),
        ("hf_other", lambda api, folder: api.create_repo("ann/m"), "refuses this token"),
        ("hf_wrong", lambda api, folder: api.whoami(), "does not know this token"),
        ("hf_wrong", lambda api, folder: api.create_repo("ann/m"), "does not know this token"),
        (
            "hf_other",
            lambda api, folder: api.upload_folder(repo_id="ann/m", folder_path=folder),
            "There is no ann/m on",
        ),
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
    owner, folder = server.api("hf_writes"), model_folder(tmp_path / "m")
    for name in ("ann/m", "ann/taken"):
        owner.create_repo(name, private=True)
    owner.create_repo("ann/public", private=False)
    owner.upload_file(
        repo_id="ann/taken", path_or_fileobj=b"# Another model", path_in_repo="README.md"
    )
    before = hashes(folder)
    with (
        pytest.raises(hub.HubError, match=said) as caught,
        hub.connection("hub", tmp_path, "ann/m"),
    ):
        action(server.api(token), folder)
    assert "\n" not in str(caught.value) and token not in str(caught.value)
    assert hashes(folder) == before
    assert owner.list_repo_files("ann/m") == [".gitattributes"]
    hub.check_target(owner.model_info("ann/m"), True)


def test_a_full_disk_is_said(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(hub.HubError, match="No space is left"), hub.connection("none", tmp_path):
        full()
    api = server.api("hf_writes")
    api.create_repo("ann/m")
    monkeypatch.setattr(practice_hub, "settle", full)
    with (
        pytest.raises(hub.HubError, match="No space is left"),
        hub.connection("hub", tmp_path, "ann/m"),
    ):
        api.upload_folder(repo_id="ann/m", folder_path=model_folder(tmp_path / "m"))
    assert api.list_repo_files("ann/m") == [".gitattributes"]


def test_a_hub_that_goes_away_in_the_middle(server, tmp_path, monkeypatch):
    api, folder = server.api("hf_writes"), model_folder(tmp_path / "m")
    api.create_repo("ann/m", private=True)
    before = hashes(folder)

    def go_away(self, chunk):
        server.stop()
        self.request.connection.stream.close()  # at once: so small a body may be here whole

    monkeypatch.setattr(practice_hub.Upload, "data_received", go_away)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with (
        pytest.raises(hub.HubError, match="cannot be reached any more") as caught,
        hub.connection("hub", tmp_path, "ann/m"),
    ):
        api.upload_folder(repo_id="ann/m", folder_path=folder)
    assert "\n" not in str(caught.value) and hashes(folder) == before
    monkeypatch.undo()
    with (
        practice_hub.Server(tmp_path / "hub", ACCOUNTS) as again,
        hub.elsewhere(again.endpoint, tmp_path / "home", "hf_writes"),
    ):
        api = HfApi(endpoint=again.endpoint, token="hf_writes")
        assert api.list_repo_files("ann/m") == [".gitattributes"]
        api.upload_folder(repo_id="ann/m", folder_path=folder)
        assert set(before) < set(api.list_repo_files("ann/m"))


PUSH = """
import os, sys, time
from pathlib import Path
from huggingface_hub import HfApi
from helpers.publish import hub
from helpers.publish import practice_hub
run_dir, folder, slowly = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
received, seen = practice_hub.Upload.data_received, run_dir / "requests.txt"
practice_hub.Upload.data_received = lambda self, chunk: (time.sleep(slowly), received(self, chunk))[1]
def prepare(self, before=practice_hub.Handler.prepare):
    with seen.open("a") as stream:
        stream.write(f"{self.request.method} {self.request.uri} {dict(self.request.headers)}\\n")
    return before(self)
practice_hub.Handler.prepare = prepare
with hub.connection("practice", run_dir, "ann/m") as place:
    api = HfApi(endpoint=place.endpoint, token=place.token)
    api.create_repo("ann/m", private=True, exist_ok=True)
    print(api.upload_folder(repo_id="ann/m", folder_path=folder, delete_patterns="*", commit_message="m").oid)
"""


def pushing(run_dir, folder, slowly, **environment):
    (run_dir / "push.py").write_text(PUSH)
    command = [sys.executable, str(run_dir / "push.py"), str(run_dir), str(folder), str(slowly)]
    environment = {**os.environ, "PYTHONPATH": str(folders.REPOSITORY), **environment}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_push_killed_half_way_shows_nothing_and_goes_on(tmp_path):
    folder = model_folder(tmp_path / "m")
    first = pushing(tmp_path, folder, 0.1)
    objects, deadline = tmp_path / "practice_hub" / "objects", time.monotonic() + 120
    while not any(
        os.path.exists(path) and os.path.getsize(path) > 100_000 for path in objects.glob(".*")
    ):
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.communicate()[0] == ""
    with hub.connection("practice", tmp_path, "ann/m") as place:
        assert HfApi(endpoint=place.endpoint, token=place.token).list_repo_files("ann/m") == [
            ".gitattributes"
        ]

    # Again, with a saved token of the user's around, of which nothing may be found anywhere.
    users, secret = tmp_path / "users", "hf_" + "Qz7" * 11 + "x"
    users.mkdir()
    for name in ("token", "stored_tokens"):
        (users / name).write_text(secret)
    second = pushing(tmp_path, folder, 0, HF_HOME=str(users), HF_TOKEN=secret)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    with hub.connection("practice", tmp_path, "ann/m") as place:
        fetched = HfApi(endpoint=place.endpoint, token=place.token).snapshot_download(
            "ann/m", revision=out.strip(), cache_dir=hub.empty_cache(tmp_path)
        )
    assert hub.check_download(
        tmp_path / ".download",
        "ann/m",
        out.strip(),
        {**hashes(folder), ".gitattributes": files.sha256(f"{fetched}/.gitattributes")},
    )
    assert not list(objects.glob(".*"))
    requests = (tmp_path / "requests.txt").read_text()
    assert "hf_practice_" in requests and secret not in requests + out + err
    written = [path for path in tmp_path.rglob("*") if path.is_file() and users not in path.parents]
    assert written and not any(secret.encode() in path.read_bytes() for path in written)


def test_practice_leaves_everything_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_users_own")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "users"))
    before = (
        {name: getattr(constants, name) for name in dir(constants) if name.isupper()},
        dict(os.environ),
    )
    with pytest.raises(ZeroDivisionError), hub.connection("practice", tmp_path) as place:
        assert get_token() == place.token != "hf_users_own" and constants.ENDPOINT == place.endpoint
        1 / 0  # noqa: B018
    assert before == (
        {name: getattr(constants, name) for name in dir(constants) if name.isupper()},
        dict(os.environ),
    )
    assert get_token() == "hf_users_own"


def test_altered_weights_are_found(tmp_path):
    cache = hub.empty_cache(tmp_path)
    snapshot = cache / "models--ann--m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    right = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    assert hub.check_download(cache, "ann/m", "abc", right) == ["model.safetensors"]
    with pytest.raises(hub.HubError, match=r"model\.safetensors"):
        hub.check_download(cache, "ann/m", "abc", {"model.safetensors": "0" * 64})
    assert not any(hub.empty_cache(tmp_path).iterdir())


STRANGER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
name, commit = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name, revision=commit)
model = AutoModelForCausalLM.from_pretrained(name, revision=commit)
inputs = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
out = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
assert "helpers" not in sys.modules and tokenizer.pad_token_id != tokenizer.eos_token_id
print(json.dumps([out, model.generation_config.eos_token_id, tokenizer.pad_token]))
"""


def test_a_stranger_loads_what_was_pushed_with_plain_transformers(tiny, server, tmp_path):
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tiny),
        AutoModelForCausalLM.from_pretrained(tiny),
    )
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    loading.add_pad_row(model, tokenizer)
    model.generation_config.eos_token_id = asking.end_tokens(model, tokenizer)
    for owner in (model, tokenizer):
        owner.save_pretrained(
            tmp_path / "merged", **({"max_shard_size": "5MB"} if owner is model else {})
        )
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 1
    api = server.api("hf_writes")
    api.create_repo("ann/merged", private=True)
    commit = api.upload_folder(repo_id="ann/merged", folder_path=tmp_path / "merged").oid
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")
    }
    environment |= {
        "HF_HOME": str(tmp_path / "stranger"),
        "HF_ENDPOINT": server.endpoint,
        "HF_TOKEN": "hf_reads",
    }
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, "ann/merged", commit],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
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


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """(adapter folder with numbers in it, tokenizer, prompts, completions, logits of the adapter on its base)."""
    folder, tokenizer = tmp_path_factory.mktemp("adapter"), AutoTokenizer.from_pretrained(tiny)
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    set_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(folder)
    prompts = [[{"role": "user", "content": f"How many are {n} things?"}] for n in range(6)]
    completions = [
        [{"role": "assistant", "content": f"{n} are {'very ' * n}many."}] for n in range(6)
    ]
    batches = asking.answer_logits(model, tokenizer, prompts, completions, 4)
    return folder, tokenizer, prompts, completions, merge_check.record(batches, folder / "logits")


def merged(base, adapter, spoil=lambda name, layer: None):
    model = PeftModel.from_pretrained(base, adapter)
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A") and len(layer.scaling):
            spoil(name, layer)
    return model.merge_and_unload()


def update_error(model, folder, tiny, adapter, **options):
    model.save_pretrained(folder, max_shard_size="2MB")
    return merge_check.update_error(folder, tiny, adapter, **options)


def test_on_an_unquantized_base_merged_and_adapter_agree(tiny, trained, tmp_path):
    adapter, tokenizer, prompts, completions, reference = trained
    load = lambda: AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model = merged(load(), adapter)
    near = merge_check.distance(
        reference, asking.answer_logits(model, tokenizer, prompts, completions, 3)
    )
    assert near["logit_max"] < 1e-4 and near["kl_max"] < 1e-6 and near["same_first_choice"] == 1
    assert update_error(model, tmp_path / "float32", tiny, adapter)[0] < 1e-4
    assert update_error(model.to(torch.bfloat16), tmp_path / "bfloat16", tiny, adapter)[0] < 0.02
    with pytest.raises(ValueError, match="other texts"):
        merge_check.distance(
            reference, asking.answer_logits(model, tokenizer, prompts[:3], completions[:3], 3)
        )


def other_seed(folder):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    set_seed(2)
    for weight in base.parameters():
        weight.data.normal_(std=0.02)
    return base


@pytest.mark.parametrize("wrong", ["scaling doubled", "a module missing", "base of another seed"])
def test_wrong_merges_are_caught(tiny, trained, wrong, tmp_path):
    adapter, tokenizer, prompts, completions, reference = trained

    def spoil(name, layer):
        if wrong == "scaling doubled":
            layer.scaling["default"] *= 2
        if wrong == "a module missing" and "layers.1.self_attn.q_proj" in name:
            layer.scaling["default"] = 0

    load = lambda: AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model = merged(other_seed(tiny) if wrong == "base of another seed" else load(), adapter, spoil)
    error, where = update_error(model, tmp_path, tiny, adapter)
    assert error > 0.5 and ("layers.1.self_attn.q_proj" in where or wrong != "a module missing")
    far = merge_check.distance(
        reference, asking.answer_logits(model, tokenizer, prompts, completions, 4)
    )
    assert far["logit_max"] > 1e-3


@pytest.mark.parametrize("rounded", ["nf4", "int8"])
def test_a_merge_into_dequantized_weights_is_checked_against_them(tiny, trained, rounded, tmp_path):
    quantized = {
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
    }[rounded]
    base = AutoModelForCausalLM.from_pretrained(
        tiny, dtype="auto", quantization_config=quantized, device_map={"": "cpu"}
    )
    model = merged(base.dequantize(), trained[0])
    assert update_error(model, tmp_path, tiny, trained[0], rounded=rounded)[0] < 1e-3
    assert merge_check.update_error(tmp_path, tiny, trained[0])[0] > 5e-3
    (tmp_path / "model.safetensors.index.json").unlink()
    min(tmp_path.glob("*.safetensors")).unlink()
    assert merge_check.update_error(tmp_path, tiny, trained[0], rounded)[0] == float("inf")


def test_distance_is_what_its_definition_says(tmp_path):
    set_seed(0)
    p, q = torch.randn(7, 11), torch.randn(7, 11)
    got = merge_check.distance(merge_check.record([p[:4], p[4:]], tmp_path / "p"), [q[:2], q[2:]])
    kl = torch.nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    assert got["kl_mean"] == pytest.approx(float(kl.mean()), rel=1e-4) and got[
        "kl_max"
    ] == pytest.approx(float(kl.max()), rel=1e-4)
    assert got["logit_max"] == pytest.approx(float((p - q).abs().max()))
    assert got["logit_mean"] == pytest.approx(float((p - q).abs().mean()), rel=1e-4)


def test_names_follow_the_account_and_the_licence_of_the_base():
    assert hub.choose_name("", "ann", weights.DEFAULT_MODEL) == "ann/SmolLM2-135M-Instruct-lora"
    assert (
        hub.choose_name("", "ann", "meta-llama/Meta-Llama-3-8B-Instruct")
        == "ann/Llama-3-Meta-Llama-3-8B-Instruct-lora"
    )
    assert (
        hub.choose_name("ann/Llama-3-inbox", "ann", "meta-llama/Meta-Llama-3-8B-Instruct")
        == "ann/Llama-3-inbox"
    )
    with pytest.raises(hub.HubError, match="begins with Llama-3, for example ann/Llama-3-inbox"):
        hub.choose_name("ann/inbox", "ann", "meta-llama/Meta-Llama-3-8B-Instruct")
    assert [
        licences.llama_version(name)
        for name in ("Llama-3.1-8B", "x/llama3", "llama-30b", "Llama-2-7b", "SmolLM2")
    ] == [
        "3.1",
        "3",
        None,
        None,
        None,
    ]
    about = licences.about(weights.DEFAULT_MODEL)
    assert (
        about["licence"] == "apache-2.0"
        and about["hub_id"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )


def test_an_adapter_leaves_without_the_path_of_its_base(tiny, trained, tmp_path):
    from huggingface_hub import ModelCard

    base = {"hub_id": None, "name": "Meta-Llama-3-8B", "notice": "Meta Llama 3 is licensed …"}
    target = hub.adapter_to_push(
        trained[0],
        tmp_path / "adapter",
        base,
        ModelCard("---\nlibrary_name: transformers\n---\n# M\n"),
    )
    assert (
        files.read_json(target / "adapter_config.json")["base_model_name_or_path"]
        == "Meta-Llama-3-8B"
    )
    assert (
        ModelCard.load(target / "README.md").data.library_name == "peft"
        and (target / "Notice").is_file()
    )
    assert not any(str(tiny).encode() in path.read_bytes() for path in target.iterdir())


@pytest.mark.parametrize(
    "name, said",
    [
        ("", "'account/name'"),
        ("inbox", "'account/name'"),
        ("a/b/c", "'account/name'"),
        ("a/b--c", "no valid name"),
        ("a/b c", "no valid name"),
    ],
)
def test_a_bad_name_is_refused_before_any_work(name, said):
    values = {
        "run_dir": "",
        "seed": 1,
        "push_to": "hub",
        "hub_repo_id": name,
        "hub_private": True,
        "push_adapter": False,
        "max_shard_size": "5GB",
        "check_rows": 10,
        "eval_batch_size": 8,
        "merge_tolerance": 0.005,
    }
    with pytest.raises(parameters.ParameterError, match=said):
        parameters.check("04_merge_push", values)
