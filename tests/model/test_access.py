"""Access to models on the Hub: every refusal becomes one sentence.

A local server answers as the Hub does.
"""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

GATED = {"X-Error-Code": "GatedRepo"}
NOT_FOUND = {"X-Error-Code": "RepoNotFound"}
INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}
# (owner of the model, token): the Hub's answer
ANSWERS = {
    ("open", None): (200, {"ETag": '"0"', "X-Repo-Commit": "0" * 40}),
    ("gated", None): (401, GATED),
    ("gated", "waits"): (403, GATED),
    ("gated", "narrow"): (
        403,
        {"X-Error-Message": "Please enable access to public gated repositories"},
    ),
    ("gated", "wrong"): (401, INVALID),
    ("unknown", None): (401, NOT_FOUND),
    ("unknown", "good"): (404, NOT_FOUND),
    ("bare", None): (404, {"X-Error-Code": "EntryNotFound"}),
    ("broken", None): (501, {}),
}
SAID = {
    ("gated", None): [
        "not signed in",
        "request access on https://huggingface.co/gated/model",
        "`hf auth login`",
    ],
    ("gated", "waits"): [
        "has no access yet",
        "https://huggingface.co/gated/model",
        "wait for the mail",
    ],
    ("gated", "narrow"): ["allow public gated repositories"],
    ("gated", "wrong"): [
        "refuses the token in the environment variable HF_TOKEN",
        "`hf auth login`",
    ],
    ("gated", "wrong, stored"): ["refuses your token", "make a new one", "`hf auth login`"],
    ("unknown", None): ["shows no such model: check the spelling", "`hf auth login`"],
    ("unknown", "good"): ["shows no such model: check the spelling."],
    ("bare", None): ["no config.json"],
    ("broken", None): ["answered 501", "try again later"],
    ("closed", None): ["cannot be reached: check the network"],
    ("offline", None): ["HF_HUB_OFFLINE", "unset"],
    ("a/b", None): ["neither a folder here nor an id of the Hub", "'owner/name'"],
}
ASK = """
import json, os, sys
from pathlib import Path
from huggingface_hub import constants
from helpers.model import default_model, loading

said = {}
for owner, token in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    constants.HF_HUB_OFFLINE = owner == "offline"
    stored = Path(constants.HF_TOKEN_PATH)
    stored.unlink(missing_ok=True)
    if token and token.endswith(", stored"):
        stored.write_text("hf_" + token.split(",")[0])
    elif token:
        os.environ["HF_TOKEN"] = "hf_" + token
    try:
        said[f"{owner} {token}"] = "found: " + loading.find(owner + "/model")
    except default_model.ModelError as error:
        said[f"{owner} {token}"] = str(error)
print(json.dumps(said))
"""


class Hub(BaseHTTPRequestHandler):
    def answer(self, body=b""):
        token = self.headers.get("Authorization", "").removeprefix("Bearer hf_") or None
        status, headers = ANSWERS[self.path.split("/")[1], token]
        self.send_response(status)
        for name, value in {
            **headers,
            "Content-Length": str(len(body) if status == 200 else 0),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if status == 200 and self.command == "GET" else b"")

    def do_HEAD(self):
        self.answer(b"{}")

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


def environment(endpoint, home):
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    home.mkdir(exist_ok=True, parents=True)
    return {
        **kept,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    home = tmp_path_factory.mktemp("hub") / "home"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    found = {}
    cases = [case for case in [*ANSWERS, ("gated", "wrong, stored")] if case[0] != "closed"]
    kept = home / "hub" / "models--kept--model"
    for path, text in (
        (kept / "refs" / "main", "0" * 40),
        (kept / "snapshots" / ("0" * 40) / "config.json", "{}"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    for asked in (cases, [("closed", None), ("offline", None), ("kept", None), ("a/b", None)]):
        done = subprocess.run(
            [sys.executable, "-c", ASK, json.dumps(asked)],
            check=False,
            capture_output=True,
            text=True,
            env=environment(f"http://127.0.0.1:{server.server_port}", home),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found |= json.loads(done.stdout)
        server.shutdown()
        server.server_close()
    return found


def test_an_open_model_is_found_and_one_in_the_cache_without_network(said):
    assert said["open None"] == "found: open/model" and said["kept None"] == "found: kept/model"


@pytest.mark.parametrize("owner, token", SAID)
def test_a_refusal_is_one_sentence_with_the_next_step(said, owner, token):
    sentence = said[f"{owner} {token}"]
    assert sentence.startswith(f"model_id {owner}/model ") and sentence.endswith(".")
    assert all(part in sentence for part in SAID[owner, token]), sentence
    assert "\n" not in sentence and "hf_" not in sentence


@pytest.mark.slow
@pytest.mark.slow
def test_01_asks_for_the_model_before_it_reads_the_data(tmp_path):
    command = [
        sys.executable,
        "-m",
        "course",
        "run",
        "--run-dir",
        str(tmp_path / "run"),
        "--until",
        "01",
        "-p",
        "model_id",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "-p",
        "data_path",
        "missing.csv",
    ]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=environment("http://127.0.0.1:9", tmp_path / "home"),
    )
    assert (
        done.returncode == 1
        and "ModelError: model_id meta-llama/Meta-Llama-3-8B-Instruct is no folder" in done.stderr
    )
    assert "missing.csv" not in done.stderr
