"""A Hub to practise on: a small server on 127.0.0.1 that speaks as much of the Hub's protocol as pushing a model needs.

Its state is a folder: `objects/<SHA-256>` are the contents of files, `repositories/<owner>/<name>.json` says who may see
a repository and which files each of its commits holds. An object is written beside its place and renamed when its hash
is right, and a commit is one replacement of that JSON file, so that whoever is killed when, a reader sees the state
before or the state after. Routes, fields and headers are those that huggingface_hub 2.4 sends and reads.
"""

import asyncio
import base64
import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import re
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path

import yaml
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from helpers.records import files

LARGE = (
    "*.safetensors",
    "*.bin",
    "*.pt",
    "*.gguf",
    "*.onnx",
    "*.zip",
    "*.parquet",
    "tokenizer.json",
)
LARGE_BYTES = 10_000_000  # larger files are sent as large ones, whatever their name
BODY_BYTES = 500_000_000  # a commit, which is held in memory; large files are not part of it
MALFORMED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    yaml.YAMLError,
)  # what reading nonsense ends in
CHUNK = 1 << 20  # bytes read, hashed and sent at a time
NAME = re.compile(
    r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9_][A-Za-z0-9_.-]{0,94}[A-Za-z0-9_]|[A-Za-z0-9_]"
)


class Refusal(HTTPError):
    """An answer other than success; `code` becomes the header from which the client chooses its exception.

    more: further fields of the JSON answer.
    """

    def __init__(self, status, message, code=None, **more):
        super().__init__(status, message)
        self.message, self.code, self.more = message, code, more


class Server:
    """The practice Hub as a context manager: it listens while the `with` block runs, in a thread of this process.

    folder: where its state is kept (made when missing); accounts: {token: (user name, "write" or "read")}.
    Attributes: `endpoint` (str, its URL on a free port of 127.0.0.1).
    """

    def __init__(self, folder, accounts):
        self.folder, self.accounts, self.uploads = Path(folder), accounts, {}
        self.endpoint = self._failed = None

    def __enter__(self):
        for name in ("objects", "repositories"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for leftover in (self.folder / "objects").glob(".*"):  # of an upload that was killed
            leftover.unlink()
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), daemon=True
        )
        self._thread.start()
        started.wait()
        if self._failed:
            self._thread.join()
            raise self._failed
        return self

    def __exit__(self, *error):
        self.stop()
        self._thread.join()

    def stop(self):
        """End the server; may be called from any thread, and again."""
        with contextlib.suppress(RuntimeError):  # its loop has ended already
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self, started):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        api, files = r"/api/models/([^/]+/[^/]+)", r"/([^/]+/[^/]+)"
        routes = [
            (r"/api/whoami-v2", WhoAmI),
            (r"/api/validate-yaml", ValidateCard),
            (r"/api/repos/create", Create),
            (api + r"(?:/revision/([^/]+))?", Info),
            (api + r"/tree/([^/]+)(?:/(.*))?", Tree),
            (api + r"/preupload/([^/]+)", Preupload),
            (api + r"/commit/([^/]+)", Commit),
            (files + r"\.git/info/lfs/objects/batch", LargeFiles),
            (r"/upload/([\w-]+)", Upload),
            (files + r"/resolve/([^/]+)/(.+)", Resolve),
        ]
        application = Application(
            routes, hub=self, default_handler_class=Unknown, log_function=lambda handler: None
        )
        server = HTTPServer(application, max_body_size=BODY_BYTES)
        try:
            sockets = bind_sockets(0, "127.0.0.1")
        except OSError as error:
            self._failed = error
            started.set()
            return
        server.add_sockets(sockets)
        self.endpoint = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        started.set()
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()

    def object_path(self, sha256):
        return self.folder / "objects" / sha256

    def keep(self, data):
        """Store bytes, return their SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        part = self.object_path(f".{secrets.token_hex(8)}")
        with open(part, "wb") as stream:
            stream.write(data)
        settle(part, self.object_path(sha256))
        return sha256

    def repository_path(self, repo_id):
        owner, _, name = repo_id.partition("/")
        if not (NAME.fullmatch(owner) and NAME.fullmatch(name)):
            raise Refusal(
                400, f"Invalid repository name {repo_id}: use letters, digits, '-', '_' and '.'."
            )
        return self.folder / "repositories" / owner / f"{name}.json"

    def read(self, repo_id):
        """The repository as a dict, or None."""
        path = self.repository_path(repo_id)
        return files.read_json(path) if path.is_file() else None

    def add_commit(self, repo_id, repository, files, title):
        """Make `files` ({path: {"size", "sha256", "oid", "large"}}) the newest state of a repository. Returns its id."""
        commit = {"parent": repository["head"], "title": title, "date": now(), "files": files}
        oid = hashlib.sha1(json.dumps([repo_id, commit]).encode()).hexdigest()
        repository["commits"][oid], repository["head"] = commit, oid
        path = self.repository_path(repo_id)
        path.parent.mkdir(exist_ok=True)
        files.write_json(path, repository)
        return oid


def full(error):
    """True for an exception that says that the disk has no space, or no room for another file."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def settle(part, final):
    """Rename a finished file to its place, once its bytes are on the disk."""
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, final)


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def entry(sha256, size, large, data=b""):
    """What a commit remembers of a file; `oid` is git's name for it (of the pointer, for a large one)."""
    if large:
        data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return {
        "size": size,
        "sha256": sha256,
        "large": large,
        "oid": hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest(),
    }


class Handler(RequestHandler):
    """What all answers share: who asks, what may be seen, and how a refusal is said."""

    @property
    def hub(self):
        return self.application.settings["hub"]

    @property
    def body(self):
        return json.loads(self.request.body or b"{}")

    def log_exception(self, kind, error, trace):
        if not isinstance(error, (Refusal, *MALFORMED)) and not full(
            error
        ):  # a refusal is an answer, the client says it
            super().log_exception(kind, error, trace)

    def write_error(self, status_code, **about):
        error = about["exc_info"][1]
        if full(error):
            error = Refusal(507, "The practice Hub has no space left on its disk.")
        elif isinstance(error, MALFORMED):
            error = Refusal(400, "The practice Hub does not understand this.")
        self.set_status(getattr(error, "status_code", status_code))
        message = getattr(error, "message", "The practice Hub cannot answer this.")
        if getattr(error, "code", None):
            self.set_header("X-Error-Code", error.code)
        self.set_header("X-Error-Message", re.sub("[^ -~]", "?", message))
        self.finish({"error": message, **getattr(error, "more", {})})

    def user(self):
        """(name, role) of whoever asks; (None, None) without a token."""
        token = self.request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self.hub.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.accounts.get(token, (None, None))

    def repository(self, repo_id, write=False):
        """The repository, if whoever asks may see it (and change it): what is private does not exist for others."""
        (name, role), found = self.user(), self.hub.read(repo_id)
        owner = repo_id.split("/")[0]
        if found is None or (found["private"] and name != owner):
            raise Refusal(404 if name else 401, "Repository not found", "RepoNotFound")
        if write and (name != owner or role != "write"):
            raise Refusal(
                403,
                "This token may only read" if name == owner else f"{repo_id} belongs to {owner}",
            )
        return found

    def files(self, repository, revision):
        """(commit id, files) at a branch or commit; the only branch is main."""
        oid = repository["head"] if revision in (None, "main") else revision
        if oid not in repository["commits"]:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository["commits"][oid]["files"]


class Unknown(Handler):
    def prepare(self):
        raise Refusal(404, f"The practice Hub has no {self.request.method} {self.request.path}.")


class WhoAmI(Handler):
    def get(self):
        name, role = self.user()
        if name is None:
            raise Refusal(401, "Invalid username or password.")
        self.finish(
            {
                "type": "user",
                "name": name,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": {"role": role}},
            }
        )


class ValidateCard(Handler):
    def post(self):
        try:
            card_head(self.body["content"])
        except yaml.YAMLError as error:
            self.set_status(400)
            return self.finish({"errors": [{"message": str(error)}], "warnings": []})
        self.finish({"errors": [], "warnings": []})


def card_head(text):
    """The YAML block at the top of a model card, as a dict."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    return (yaml.safe_load(found.group(1)) if found else None) or {}


class Create(Handler):
    def post(self):
        name, role = self.user()
        if name is None:
            raise Refusal(401, "Invalid username or password.")
        owner = self.body.get("organization") or name
        repo_id = f"{owner}/{self.body['name']}"
        if self.body.get("type", "model") != "model":
            raise Refusal(400, "The practice Hub keeps models only.")
        exists = self.hub.read(repo_id)
        if role != "write" or owner != name:
            raise Refusal(
                403,
                "This token may only read"
                if owner == name
                else f"You may not create repositories for {owner}",
            )
        if exists:
            raise Refusal(
                409, "You already created this model repo", url=f"{self.hub.endpoint}/{repo_id}"
            )
        repository = {
            "private": self.body.get("visibility") == "private",
            "head": None,
            "commits": {},
        }
        text = "".join(
            f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE
        ).encode()
        files = {".gitattributes": entry(self.hub.keep(text), len(text), False, text)}
        self.hub.add_commit(repo_id, repository, files, "initial commit")
        self.finish({"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id})


class Info(Handler):
    def get(self, repo_id, revision):
        repository = self.repository(repo_id)
        oid, files = self.files(repository, revision)
        card = (
            card_head(
                self.hub.object_path(files["README.md"]["sha256"]).read_text(encoding="utf-8")
            )
            if "README.md" in files
            else {}
        )
        self.finish(
            {
                "id": repo_id,
                "modelId": repo_id,
                "author": repo_id.split("/")[0],
                "sha": oid,
                "private": repository["private"],
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": card.get("tags", []),
                "cardData": card,
                "lastModified": repository["commits"][oid]["date"],
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )


class Tree(Handler):
    def get(self, repo_id, revision, folder):
        _, files = self.files(self.repository(repo_id), revision)
        start = folder.strip("/") + "/" if folder else ""
        inside = {path: about for path, about in sorted(files.items()) if path.startswith(start)}
        if folder and not inside:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        parents = {
            path.rsplit("/", depth)[0] for path in inside for depth in range(1, path.count("/") + 1)
        }
        rows = [
            {"type": "directory", "path": path, "oid": "", "size": 0}
            for path in sorted(parents)
            if path.startswith(start)
        ]
        for path, about in inside.items():
            large = (
                {"lfs": {"oid": about["sha256"], "size": about["size"], "pointerSize": 0}}
                if about["large"]
                else {}
            )
            rows.append(
                {"type": "file", "path": path, "oid": about["oid"], "size": about["size"], **large}
            )
        if self.get_query_argument("recursive", "").lower() not in ("true", "1"):
            rows = [row for row in rows if "/" not in row["path"][len(start) :]]
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(rows))


class Preupload(Handler):
    def post(self, repo_id, revision):
        _, files = self.files(self.repository(repo_id, write=True), revision)
        answers = []
        for file in self.body["files"]:
            name = file["path"].rsplit("/", 1)[-1]
            large = file["size"] > LARGE_BYTES or any(
                fnmatch.fnmatch(name, pattern) for pattern in LARGE
            )
            old = files.get(file["path"])
            known = {"oid": old["sha256"] if old["large"] else old["oid"]} if old else {}
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    **known,
                }
            )
        self.finish({"files": answers})


class LargeFiles(Handler):
    """Where to send large files: an address that can be used once, for exactly this content; none for what is here."""

    def post(self, repo_id):
        self.repository(repo_id, write=True)
        objects = []
        for wanted in self.body["objects"]:
            sha256, size = wanted["oid"], wanted["size"]
            if not re.fullmatch(r"[0-9a-f]{64}", sha256) or type(size) is not int or size < 0:
                raise Refusal(422, "An object is named by its SHA-256 and has a size.")
            answer = {"oid": sha256, "size": size}
            if not self.hub.object_path(sha256).is_file():
                ticket = secrets.token_urlsafe(16)
                self.hub.uploads[ticket] = (sha256, size)
                answer["actions"] = {"upload": {"href": f"{self.hub.endpoint}/upload/{ticket}"}}
            objects.append(answer)
        self.set_header("Content-Type", "application/vnd.git-lfs+json")
        self.finish(json.dumps({"transfer": "basic", "objects": objects}))


@stream_request_body
class Upload(Handler):
    """One large file, written to disk as it arrives."""

    part = stream = None

    def prepare(self):
        ticket = self.request.path.rsplit("/", 1)[1]
        if ticket not in self.hub.uploads:
            raise Refusal(403, "This upload address is not valid.")
        self.sha256, self.size = self.hub.uploads[ticket]
        self.request.connection.set_max_body_size(self.size)
        self.part, self.digest = self.hub.object_path(f".{ticket}"), hashlib.sha256()
        self.stream = open(self.part, "wb")  # noqa: SIM115 (closed when the last piece is here, or the client gone)

    def data_received(self, chunk):
        self.stream.write(chunk)
        self.digest.update(chunk)

    def put(self, ticket):
        self.stream.close()
        if self.digest.hexdigest() != self.sha256 or self.part.stat().st_size != self.size:
            raise Refusal(400, "What arrived is not what was announced.")
        settle(self.part, self.hub.object_path(self.sha256))
        del self.hub.uploads[ticket]

    def on_connection_close(self):
        super().on_connection_close()
        self.on_finish()

    def on_finish(self):
        if self.stream is not None:
            self.stream.close()
            self.part.unlink(missing_ok=True)


class Commit(Handler):
    """A list of operations, all of which become visible at once; JSON lines, as the client sends them."""

    def post(self, repo_id, revision):
        repository = self.repository(repo_id, write=True)
        if revision != "main":
            raise Refusal(400, "The practice Hub has one branch, main.")
        head, *operations = [json.loads(line) for line in self.request.body.splitlines()]
        files = dict(self.files(repository, "main")[1])
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            if not {"", ".", ".."}.isdisjoint(value["path"].split("/")):
                raise Refusal(400, f"{value['path']} is no path inside a repository.")
            if kind == "file":
                data = base64.b64decode(value["content"])
                files[value["path"]] = entry(self.hub.keep(data), len(data), False, data)
            elif kind == "lfsFile":
                path = self.hub.object_path(value["oid"])
                if not re.fullmatch(r"[0-9a-f]{64}", value["oid"]) or not path.is_file():
                    raise Refusal(400, f"{value['path']} points to content that was not uploaded.")
                files[value["path"]] = entry(value["oid"], path.stat().st_size, True)
            elif kind == "deletedFile":
                files.pop(value["path"], None)
            else:
                raise Refusal(400, f"The practice Hub has no operation {kind}.")
        oid = self.hub.add_commit(repo_id, repository, files, head["value"]["summary"])
        self.finish(
            {
                "success": True,
                "commitOid": oid,
                "commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{oid}",
            }
        )


class Resolve(Handler):
    """A file of a repository at a commit; `Range` lets an interrupted download go on."""

    commit = None

    def head(self, repo_id, revision, path):
        self.find(repo_id, revision, path)
        self.finish()

    async def get(self, repo_id, revision, path):
        source, first, last = self.find(repo_id, revision, path)
        with source.open("rb") as stream:
            stream.seek(first)
            left = last - first + 1
            while left > 0:
                piece = stream.read(min(CHUNK, left))
                left -= len(piece)
                self.write(piece)
                await self.flush()

    def find(self, repo_id, revision, path):
        """Set status and headers; returns (path of the object, first byte, last byte)."""
        self.commit, files = self.files(self.repository(repo_id), revision)
        about = files.get(path)
        if about is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        self.set_header("X-Repo-Commit", self.commit)
        first, last = 0, about["size"] - 1
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.request.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or last), last)
            if first > last:
                raise Refusal(416, "The file ends before this.")
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {first}-{last}/{about['size']}")
        self.set_header("ETag", f'"{about["sha256"] if about["large"] else about["oid"]}"')
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(last - first + 1))
        return self.hub.object_path(about["sha256"]), first, last

    def compute_etag(self):
        return None  # find() sets it

    def write_error(self, status_code, **about):
        if self.commit:  # then the client remembers that this commit has no such file
            self.set_header("X-Repo-Commit", self.commit)
        super().write_error(status_code, **about)
