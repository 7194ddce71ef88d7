"""The practice Hub: what is kept, who may see it, and what nonsense or a lost file does to it."""

import base64
import contextlib
import errno
import hashlib
import json
import random
import socket

import httpx2
import psutil
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoTokenizer

from helpers.publish import hub, practice_hub
from helpers.records import files

ACCOUNTS = {
    "hf_writes": ("ann", "write"),
    "hf_reads": ("ann", "read"),
    "hf_other": ("ben", "write"),
}
WEIGHTS = random.Random(0).randbytes(3_000_000)
RUN_AGAIN = "is lost or cut off here, push it again"


@pytest.fixture
def server(tmp_path):
    """A running practice Hub with three tokens, to which the client is turned."""
    with (
        practice_hub.Server(tmp_path / "hub", ACCOUNTS) as running,
        hub.elsewhere(running.endpoint, tmp_path / "home", "hf_writes"),
    ):
        yield running


@pytest.fixture
def pushed(server, tmp_path):
    """(client, folder that was pushed as ann/m, the commit's id)."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    api = HfApi(endpoint=server.endpoint, token="hf_writes")
    api.create_repo("ann/m", private=True)
    return api, folder, api.upload_folder(repo_id="ann/m", folder_path=folder).oid


def hashes(folder):
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith((".cache", ".gitattributes")):
            found[name] = files.sha256(path)
    return found


def get(server, path, **headers):
    url = f"{server.endpoint}/ann/m/resolve/main/{path}"
    headers["Authorization"] = "Bearer hf_writes"
    return httpx2.get(url, headers=headers, timeout=10)


def object_of(server, data):
    return server.object_path(hashlib.sha256(data).hexdigest())


def test_every_file_comes_back_as_it_was_sent(server, tmp_path):
    source, dice = tmp_path / "source", random.Random(0)
    for number in range(200):
        folder = source / dice.choice(["", "sub", "sub/deep er", "ü"])
        folder.mkdir(parents=True, exist_ok=True)
        beginning = dice.choice(["a", "b c", "ß%20", "q+&="])
        ending = dice.choice(["", ".txt", ".json", ".bin", ".safetensors"])
        size = dice.choice([0, 0, 1, 511, 512, 513, 65_536, 70_001, 300_000])
        (folder / f"{beginning}{number}{ending}").write_bytes(dice.randbytes(size))
    (source / "large.txt").write_bytes(dice.randbytes(12_000_000))  # large by its size alone
    api = HfApi(endpoint=server.endpoint, token="hf_writes")
    api.create_repo("ann/files", private=True)
    push = {"repo_id": "ann/files", "folder_path": source, "delete_patterns": "*"}
    first = api.upload_folder(**push, commit_message="all").oid
    api.snapshot_download("ann/files", revision=first, local_dir=tmp_path / "fetched")
    assert hashes(tmp_path / "fetched") == hashes(source)

    objects = tmp_path / "hub" / "objects"
    sent = {path.name for path in objects.iterdir()}
    (source / "large.txt").unlink()
    second = api.upload_folder(**push, commit_message="less").oid
    assert "large.txt" not in api.list_repo_files("ann/files", revision=second)
    assert "large.txt" in api.list_repo_files("ann/files", revision=first)
    assert {path.name for path in objects.iterdir()} == sent  # nothing was sent twice
    inside = api.list_repo_tree("ann/files", "sub", revision=second)
    shown = {row.path for row in inside}
    assert "sub/deep er" in shown and all(name.startswith("sub/") for name in shown)


def test_an_interrupted_download_goes_on(server, pushed):
    answer = get(server, "model.safetensors", Range="bytes=2999000-")
    assert answer.status_code == 206 and answer.content == WEIGHTS[2_999_000:]
    answer = get(server, "model.safetensors", Range="bytes=10-19")
    assert answer.content == WEIGHTS[10:20]
    assert answer.headers["Content-Range"] == "bytes 10-19/3000000"
    assert get(server, "model.safetensors", Range="bytes=3000000-").status_code == 416
    assert server.endpoint.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("lost", ["cut off", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_an_object_that_is_lost_ends_a_download_at_once_and_comes_with_the_next_push(
    server, pushed, tmp_path, lost, name
):
    api, folder, commit = pushed
    path = object_of(server, (folder / name).read_bytes())
    path.unlink() if lost == "missing" else path.write_bytes(path.read_bytes()[:-1])
    answer = get(server, name)
    assert answer.status_code == 410 and RUN_AGAIN in answer.json()["error"]
    said = f"refused the request .*The content of {name} {RUN_AGAIN}"
    with pytest.raises(hub.HubError, match=said), hub.connection("hub", tmp_path, "ann/m"):
        api.hf_hub_download("ann/m", name, revision=commit, cache_dir=tmp_path / "cache")
    with pytest.raises(hub.HubError, match=said), hub.connection("hub", tmp_path, "ann/m"):
        api.snapshot_download("ann/m", revision=commit, cache_dir=tmp_path / "cache")

    again = api.upload_folder(repo_id="ann/m", folder_path=folder).oid
    api.snapshot_download("ann/m", revision=again, local_dir=tmp_path / "fetched")
    assert hashes(tmp_path / "fetched") == hashes(folder)


def test_an_object_that_is_cut_off_while_it_is_read_ends_the_download(
    server, pushed, tmp_path, monkeypatch
):
    api, folder, commit = pushed
    path = object_of(server, WEIGHTS)
    announce = practice_hub.Resolve.announce

    def cut_off_afterwards(self, *where):
        found = announce(self, *where)
        if self.request.method == "GET":
            path.write_bytes(WEIGHTS[:1_500_000])
        return found

    monkeypatch.setattr(practice_hub.Resolve, "announce", cut_off_afterwards)
    with pytest.raises(httpx2.RemoteProtocolError, match="without sending complete"):
        get(server, "model.safetensors")
    path.write_bytes(WEIGHTS)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with pytest.raises(hub.HubError, match=RUN_AGAIN), hub.connection("hub", tmp_path, "ann/m"):
        api.hf_hub_download("ann/m", "model.safetensors", cache_dir=tmp_path / "cache")


def test_a_card_that_is_lost_is_said(server, pushed, tmp_path):
    api, _, _ = pushed
    card = b"---\ntags:\n- mine\n---\n# A model\n"
    api.upload_file(repo_id="ann/m", path_or_fileobj=card, path_in_repo="README.md")
    assert api.model_info("ann/m").tags == ["mine"]
    object_of(server, card).unlink()
    with pytest.raises(hub.HubError, match=RUN_AGAIN), hub.connection("hub", tmp_path, "ann/m"):
        api.model_info("ann/m")


def test_a_private_repository_is_there_for_its_owner_only(server, pushed, tmp_path):
    api, _, commit = pushed
    api.create_repo("ann/open", private=False)
    seen = {}
    for token in ("hf_writes", "hf_reads", "hf_other", False):
        client = HfApi(endpoint=server.endpoint, token=token)
        seen[token] = (client.repo_exists("ann/m"), client.repo_exists("ann/open"))
    assert seen == {
        "hf_writes": (True, True),
        "hf_reads": (True, True),
        "hf_other": (False, True),
        False: (False, True),
    }
    for token in ("hf_other", False, "hf_wrong"):
        with pytest.raises(OSError):
            AutoTokenizer.from_pretrained(
                "ann/m", revision=commit, token=token, cache_dir=tmp_path / "cache"
            )


@pytest.mark.parametrize(
    "token, name, status",
    [("hf_writes", "ann/m", 409), ("hf_reads", "ann/n", 403), ("hf_other", "ann/n", 403)],
)
def test_a_repository_is_made_once_and_by_its_owner(server, pushed, token, name, status):
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(endpoint=server.endpoint, token=token).create_repo(name)
    assert caught.value.response.status_code == status


def test_a_port_that_cannot_be_had_is_an_error_of_the_block(tmp_path, monkeypatch):
    def none_left(*_):
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(practice_hub, "bind_sockets", none_left)
    with pytest.raises(OSError, match="already in use"), practice_hub.Server(tmp_path, {}):
        pass


def test_what_a_killed_upload_left_is_removed(tmp_path):
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / ".half").touch()
    (tmp_path / "objects" / "whole").touch()
    with practice_hub.Server(tmp_path, {}):
        assert [path.name for path in (tmp_path / "objects").iterdir()] == ["whole"]


def test_git_s_names_of_files_are_git_s():
    assert practice_hub.small_file(b"hello\n", "")["oid"] == (
        "ce013625030ba8dba906f756967f9e9ca394464a"  # echo hello | git hash-object --stdin
    )
    large = practice_hub.large_file("a" * 64, 5)
    assert large["size"] == 5 and large["large"] and large["oid"] != "a" * 64


@pytest.mark.parametrize(
    "path, size, large",
    [("a/model.safetensors", 1, True), ("a.txt", 10_000_000, False), ("a.txt", 10_000_001, True)],
)
def test_files_are_large_by_name_or_size(path, size, large):
    assert practice_hub.is_large(path, size) is large


def test_the_head_of_a_card():
    assert practice_hub.card_head("---\r\ntags: [a]\r\n---\r\n# M") == {"tags": ["a"]}
    assert practice_hub.card_head("# M") == practice_hub.card_head("---\n\n---\n") == {}


def raw(endpoint, data, half=False):
    """Send bytes to the server at `endpoint`; the status of its answer, or None when it closes.

    half: hang up at once.
    """
    port = int(endpoint.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):  # it need not read all of what is too long
            connection.sendall(data)
            answer = b"" if half else connection.recv(65536)
    return int(answer.split()[1]) if answer else None


def request(method, path, body=b"", token="hf_writes", length=None):
    """The bytes of an HTTP request; length: said of the body, in place of the true one."""
    length = len(body) if length is None else length
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    return head.encode() + body


def commit(*operations):
    lines = [{"key": "header", "value": {"summary": "s"}}, *operations]
    body = "\n".join(map(json.dumps, lines)).encode()
    return request("POST", "/api/models/ann/m/commit/main", body)


PATHS = [
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/x",
    "/ann/m/resolve/main/../../../../etc/passwd",
    "/ann%2f..%2f../m/resolve/main/x",
    "/ann/m/resolve/main/%2e%2e%2f%2e%2e%2fobjects%2fx",
    "/ann/m/resolve/%0d%0aX:%20y/z",
    "/ann/m/resolve/%E2%82%AC/z",
    "/api/models/ann/%00/tree/main",
    "/upload/..%2f..%2fx",
    "/upload/" + "a" * 5000,
    "/ann/m/resolve/main/" + "%ff" * 9,
]
BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"7",
    b'"x"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"name": {}}',
    b'{"files": [{"path": 3}]}',
    b'{"objects": [{"oid": 7, "size": "x"}]}',
    b'{"objects": [{"oid": "' + b"a" * 64 + b'", "size": -1}]}',
    b'{"name": "../x"}',
    b'{"name": "a/../../x"}',
    b'{"name": "..", "organization": ".."}',
    b'{"content": 5}',
]
CREATE = "/api/repos/create"
CARD = "/api/validate-yaml"
POSTS = [
    CREATE,
    "/api/models/ann/m/commit/main",
    "/api/models/ann/m/preupload/main",
    "/ann/m.git/info/lfs/objects/batch",
    CARD,
]
CONTENT = base64.b64encode(b"x").decode()


def nonsense(ticket):
    """Requests (list of bytes) that must be refused; ticket: of an upload of five bytes."""
    requests = [request(method, path) for path in PATHS for method in ("GET", "PUT", "DELETE")]
    for path in POSTS:
        # A card without a head is none that is wrong.
        requests += [
            request("POST", path, b) for b in BODIES if path != CARD or b"content" not in b
        ]
    for path in ("../x", "/etc/x", "a/../../x", 5, ""):
        requests.append(commit({"key": "file", "value": {"path": path, "content": CONTENT}}))
    passwords = {"path": "x", "oid": "../../../etc/passwd", "size": 5}
    return [
        *requests,
        commit({"key": "lfsFile", "value": passwords}),
        commit({"key": "lfsFile", "value": {**passwords, "oid": "0" * 64}}),
        commit({"key": "rename", "value": {"path": "x"}}),
        commit({"key": "file", "value": []}),
        request("PUT", f"/upload/{ticket}", b"too long for five"),
        request("PUT", f"/upload/{ticket}", b"wrong"),
        request("POST", CREATE, length="x"),
        request("POST", CREATE, length=-1),
        request("POST", CREATE, length=10**15),
        b"nonsense\r\n\r\n",
        b"\x00" * 500 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y" * 50_000 + b"\r\n\r\n",
    ]


def test_it_survives_nonsense_and_writes_nowhere_else(tmp_path, capsys):
    folder = tmp_path / "inner" / "hub"
    with practice_hub.Server(folder, {"hf_writes": ("ann", "write")}) as server:
        assert raw(server.endpoint, request("POST", CREATE, b'{"name": "m"}')) == 200
        announced = json.dumps({"objects": [{"oid": "0" * 64, "size": 5}]}).encode()
        batch = request("POST", "/ann/m.git/info/lfs/objects/batch", announced)
        assert raw(server.endpoint, batch) == 200
        ticket, before = next(iter(server.uploads)), sorted(tmp_path.rglob("*"))
        for data in nonsense(ticket):
            status = raw(server.endpoint, data)
            assert status is None or 400 <= status < 500, (status, data[:300])
        raw(server.endpoint, request("PUT", f"/upload/{ticket}", b"ab", length=5), half=True)
        port = int(server.endpoint.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST /api/repos/create HTTP/1.1\r\nContent-Le")  # and never goes on
            assert raw(server.endpoint, request("GET", "/api/models/ann/m")) == 200
        after = {path for path in tmp_path.rglob("*") if path.parent.name != "objects"}
        assert after <= set(before)
        listening = [
            connection.laddr
            for connection in psutil.Process().net_connections(kind="inet")
            if connection.status == "LISTEN"
        ]
        assert {address.ip for address in listening if address.port == port} == {"127.0.0.1"}
    assert "Traceback" not in capsys.readouterr().err
    assert not list((folder / "objects").glob(".*"))
