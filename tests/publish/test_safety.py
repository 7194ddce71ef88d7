"""What data may not do to a reader's browser or terminal, and what is never loaded."""

import base64
import contextlib
import json
import re
import socket

import pandas as pd
import psutil
import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers.data import chats
from helpers.publish import practice_hub
from helpers.records import folders

PLANTED = "<script>alert(1)</script>\x1b]0;title\x07\x1b[31mred"


def test_a_question_in_a_table_is_text():
    shown, _ = InteractiveShell().display_formatter.format(pd.DataFrame({"question": [PLANTED]}))
    assert "<script" not in shown["text/html"] and "&lt;script" in shown["text/html"]


def test_marked_tokens_are_text(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ids = tokenizer(PLANTED)["input_ids"]
    shown = chats.show_mask(tokenizer, ids, [0] * len(ids))
    assert "<script" not in shown["text/html"]
    assert "\x1b]" not in shown["text/plain"] and "\x07" not in shown["text/plain"]


@pytest.mark.parametrize("where", ["helpers", "notebooks"])
def test_no_code_or_pickle_from_a_model_repository(where):
    for path in (folders.REPOSITORY / where).glob("*.*"):
        if path.suffix in (".py", ".ipynb"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(
                r"trust_remote_code\s*=\s*True|pickle\.load|torch\.load\(|allow_pickle\s*=\s*True|weights_only\s*=\s*False",
                text,
            ), path


def raw(endpoint, data, half=False):
    """Send bytes to the server at `endpoint`; its answer's status, or None when it only closes. half: hang up at once."""
    with socket.create_connection(
        ("127.0.0.1", int(endpoint.rsplit(":", 1)[1])), timeout=10
    ) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):  # it need not read all of what is too long
            connection.sendall(data)
            answer = b"" if half else connection.recv(65536)
    return int(answer.split()[1]) if answer else None


def request(method, path, body=b"", token="hf_writes", length=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    return (
        f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
    )


def commit(*operations):
    lines = [{"key": "header", "value": {"summary": "s"}}, *operations]
    return request(
        "POST", "/api/models/ann/m/commit/main", "\n".join(map(json.dumps, lines)).encode()
    )


def test_the_practice_hub_survives_nonsense_and_writes_nowhere_else(tmp_path, capsys):
    content = base64.b64encode(b"x").decode()
    with practice_hub.Server(tmp_path / "inner" / "hub", {"hf_writes": ("ann", "write")}) as server:
        assert raw(server.endpoint, request("POST", "/api/repos/create", b'{"name": "m"}')) == 200
        announced = request(
            "POST",
            "/ann/m.git/info/lfs/objects/batch",
            json.dumps({"objects": [{"oid": "0" * 64, "size": 5}]}).encode(),
        )
        assert raw(server.endpoint, announced) == 200
        ticket, before = next(iter(server.uploads)), sorted(tmp_path.rglob("*"))
        paths = [
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
        bodies = [
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
        posts = [
            "/api/repos/create",
            "/api/models/ann/m/commit/main",
            "/api/models/ann/m/preupload/main",
            "/ann/m.git/info/lfs/objects/batch",
            "/api/validate-yaml",
        ]
        wrong = [
            *(request(method, path) for path in paths for method in ("GET", "PUT", "DELETE")),
            *(
                request("POST", path, body)
                for path in posts
                for body in bodies
                if (path, body) != (posts[-1], b'{"content": 5}')
            ),
            *(
                commit({"key": "file", "value": {"path": path, "content": content}})
                for path in ("../x", "/etc/x", "a/../../x", 5, "")
            ),
            commit({"key": "lfsFile", "value": {"path": "x", "oid": "../../../etc/passwd"}}),
            commit({"key": "file", "value": []}),
            request("PUT", f"/upload/{ticket}", b"too long for five"),
            request("PUT", f"/upload/{ticket}", b"wrong"),
            request("POST", posts[0], length="x"),
            request("POST", posts[0], length=-1),
            request("POST", posts[0], length=10**15),
            b"nonsense\r\n\r\n",
            b"\x00" * 500 + b"\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y" * 50_000 + b"\r\n\r\n",
        ]
        for data in wrong:
            status = raw(server.endpoint, data)
            assert status is None or 400 <= status < 500, (status, data[:300])
        raw(server.endpoint, request("PUT", f"/upload/{ticket}", b"ab", length=5), half=True)
        with socket.create_connection(
            ("127.0.0.1", int(server.endpoint.rsplit(":", 1)[1]))
        ) as slow:
            slow.sendall(b"POST /api/repos/create HTTP/1.1\r\nContent-Le")  # and never goes on
            assert raw(server.endpoint, request("GET", "/api/models/ann/m")) == 200
        left = {
            path
            for path in tmp_path.rglob("*")
            if path not in before and path.parent.name != "objects"
        }
        assert not left
        address = psutil.Process().net_connections(kind="inet")
        assert {
            a.laddr.ip
            for a in address
            if a.status == "LISTEN" and server.endpoint.endswith(f":{a.laddr.port}")
        } == {"127.0.0.1"}
    assert "Traceback" not in capsys.readouterr().err
    assert not list((tmp_path / "inner" / "hub" / "objects").glob(".*"))
