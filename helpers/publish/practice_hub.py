"""A Hub to practise on: a small server on 127.0.0.1 that speaks the Hub's protocol.

It speaks as much of it as pushing a model needs. Its state is a folder: `objects/<SHA-256>` are the
contents of files, `repositories/<owner>/<name>.json` says who may see a repository and which files
each of its commits holds. An object is written beside its place and renamed when its hash is right,
and a commit is one replacement of that JSON file, so that whoever is killed when, a reader sees the
state before or the state after. Routes, fields and headers are those that huggingface_hub 2.4 sends
and reads.
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

from helpers.records.files import read_json, write_json

# Files of these names are sent as large ones, and so are those of more bytes, whatever their name.
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
LARGE_BYTES = 10_000_000
BODY_BYTES = 500_000_000  # a commit, which is held in memory; large files are not part of it
PIECE_BYTES = 1 << 20  # read and sent at a time
# What reading nonsense ends in.
MALFORMED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    yaml.YAMLError,
)
SHA256 = re.compile(r"[0-9a-f]{64}")
# A name of an account or a repository.
NAME = re.compile(
    r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9_][A-Za-z0-9_.-]{0,94}[A-Za-z0-9_]|[A-Za-z0-9_]"
)


class Refusal(HTTPError):
    """An answer other than success.

    status: of HTTP; message: what the client may say; code: a header by which the client chooses
    its exception; more: further fields of the JSON answer.
    """

    def __init__(self, status, message, code=None, **more):
        super().__init__(status, message)
        self.message, self.code, self.more = message, code, more


class Server:
    """The practice Hub as a context manager: it listens while the `with` block runs, in a thread.

    folder: where its state is kept (made when missing); accounts: {token: (user name, "write" or
    "read")}.
    Attributes: `endpoint` (str, its URL on a free port of 127.0.0.1); `uploads`, {ticket: (SHA-256,
    size)} of the large files that may be sent.
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
        application = Application(
            _routes(),
            hub=self,
            default_handler_class=Unknown,
            log_function=lambda handler: None,
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
        """Where the content with this SHA-256 lies, or would lie (Path)."""
        return self.folder / "objects" / sha256

    def has_object(self, sha256, size):
        """True when the content with this SHA-256 is here with all its bytes (int)."""
        path = self.object_path(sha256)
        return path.is_file() and path.stat().st_size == size

    def content(self, path, about):
        """Where the content of the file `path` lies (Path); about: what a commit says of it.

        Raises Refusal when it is no longer here, or not all of it.
        """
        if not self.has_object(about["sha256"], about["size"]):
            raise Refusal(410, f"The content of {path} is lost or cut off here, push it again.")
        return self.object_path(about["sha256"])

    def store(self, data):
        """Keep bytes as an object, return their SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        part = self.object_path(f".{secrets.token_hex(8)}")
        part.write_bytes(data)
        put_in_place(part, self.object_path(sha256))
        return sha256

    def repository_path(self, repo_id):
        """The file (Path) about a repository; raises Refusal for a name that none can have."""
        owner, _, name = repo_id.partition("/")
        if not (NAME.fullmatch(owner) and NAME.fullmatch(name)):
            raise Refusal(
                400, f"Invalid repository name {repo_id}: use letters, digits, '-', '_' and '.'."
            )
        return self.folder / "repositories" / owner / f"{name}.json"

    def repository(self, repo_id):
        """The repository as a dict, or None."""
        path = self.repository_path(repo_id)
        return read_json(path) if path.is_file() else None

    def add_commit(self, repo_id, repository, files, title):
        """Make `files` the newest state of a repository (dict). Returns the commit's id.

        files: {path: what `file_record` says}.
        """
        commit = {"parent": repository["head"], "title": title, "date": timestamp(), "files": files}
        commit_id = hashlib.sha1(json.dumps([repo_id, commit]).encode()).hexdigest()
        repository["commits"][commit_id], repository["head"] = commit, commit_id
        path = self.repository_path(repo_id)
        path.parent.mkdir(exist_ok=True)
        write_json(path, repository)
        return commit_id


def _routes():
    """Addresses and who answers there, for tornado."""
    api, repository = r"/api/models/([^/]+/[^/]+)", r"/([^/]+/[^/]+)"
    return [
        (r"/api/whoami-v2", WhoAmI),
        (r"/api/validate-yaml", ValidateCard),
        (r"/api/repos/create", Create),
        (api + r"(?:/revision/([^/]+))?", Info),
        (api + r"/tree/([^/]+)(?:/(.*))?", Tree),
        (api + r"/preupload/([^/]+)", Preupload),
        (api + r"/commit/([^/]+)", Commit),
        (repository + r"\.git/info/lfs/objects/batch", LargeFiles),
        (r"/upload/([\w-]+)", Upload),
        (repository + r"/resolve/([^/]+)/(.+)", Resolve),
    ]


def no_space_left(error):
    """True for an exception that says that the disk has no space, or no room for another file."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def put_in_place(part, final):
    """Rename a finished file to its place, once its bytes are on the disk."""
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, final)


def timestamp():
    """Now, as the Hub writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def is_large(path, size):
    """True when a file of this name and size (bytes) is sent as a large one."""
    name = path.rsplit("/", 1)[-1]
    return size > LARGE_BYTES or any(fnmatch.fnmatch(name, pattern) for pattern in LARGE)


def small_file(data, sha256):
    """What a commit remembers of a small file; data: its bytes."""
    return file_record(sha256, len(data), large=False, blob=data)


def large_file(sha256, size):
    """What a commit remembers of a large file, of which git would hold a pointer."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return file_record(sha256, size, large=True, blob=pointer.encode())


def file_record(sha256, size, large, blob):
    """What a commit remembers of a file; `oid` is git's name for `blob`, the bytes git holds."""
    oid = hashlib.sha1(b"blob %d\0%s" % (len(blob), blob)).hexdigest()
    return {"size": size, "sha256": sha256, "large": large, "oid": oid}


def card_head(text):
    """The YAML block at the top of a model card, as a dict."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    return (yaml.safe_load(found.group(1)) if found else None) or {}


class Handler(RequestHandler):
    """What all answers share: who asks, what may be seen, and how a refusal is said."""

    @property
    def hub(self):
        """The Server."""
        return self.application.settings["hub"]

    @property
    def body(self):
        """The JSON value that was sent."""
        return json.loads(self.request.body or b"{}")

    def log_exception(self, kind, error, trace):
        """Say on the screen what is no answer: the client says the others."""
        if not isinstance(error, (Refusal, *MALFORMED)) and not no_space_left(error):
            super().log_exception(kind, error, trace)

    def write_error(self, status_code, **about):
        error = about["exc_info"][1]
        if no_space_left(error):
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

    def known_user(self):
        """(name, role) of whoever asks; a Refusal without a token."""
        name, role = self.user()
        if name is None:
            raise Refusal(401, "Invalid username or password.")
        return name, role

    def repository(self, repo_id, write=False):
        """The repository (dict), if whoever asks may see it, and change it with `write`.

        What is private does not exist for others.
        """
        (name, role), found = self.user(), self.hub.repository(repo_id)
        owner = repo_id.split("/")[0]
        if found is None or (found["private"] and name != owner):
            raise Refusal(404 if name else 401, "Repository not found", "RepoNotFound")
        if write and name != owner:
            raise Refusal(403, f"{repo_id} belongs to {owner}")
        if write and role != "write":
            raise Refusal(403, "This token may only read")
        return found

    def files(self, repository, revision):
        """(commit's id, its files) at a branch or commit; the only branch is main."""
        commit_id = repository["head"] if revision in (None, "main") else revision
        if commit_id not in repository["commits"]:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit_id, repository["commits"][commit_id]["files"]


class Unknown(Handler):
    """Any other address."""

    def prepare(self):
        raise Refusal(404, f"The practice Hub has no {self.request.method} {self.request.path}.")


class WhoAmI(Handler):
    """Who a token belongs to."""

    def get(self):
        name, role = self.known_user()
        auth = {"type": "access_token", "accessToken": {"role": role}}
        self.finish({"type": "user", "name": name, "orgs": [], "auth": auth})


class ValidateCard(Handler):
    """Whether the head of a model card can be read."""

    def post(self):
        try:
            card_head(self.body["content"])
        except yaml.YAMLError as error:
            self.set_status(400)
            return self.finish({"errors": [{"message": str(error)}], "warnings": []})
        self.finish({"errors": [], "warnings": []})


class Create(Handler):
    """A new repository."""

    def post(self):
        name, role = self.known_user()
        owner = self.body.get("organization") or name
        repo_id = f"{owner}/{self.body['name']}"
        if self.body.get("type", "model") != "model":
            raise Refusal(400, "The practice Hub keeps models only.")
        exists = self.hub.repository(repo_id)  # first, because it refuses impossible names
        if owner != name:
            raise Refusal(403, f"You may not create repositories for {owner}")
        if role != "write":
            raise Refusal(403, "This token may only read")
        url = f"{self.hub.endpoint}/{repo_id}"
        if exists:
            raise Refusal(409, "You already created this model repo", url=url)
        private = self.body.get("visibility") == "private"
        repository = {"private": private, "head": None, "commits": {}}
        lines = [f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE]
        attributes = "".join(lines).encode()
        files = {".gitattributes": small_file(attributes, self.hub.store(attributes))}
        self.hub.add_commit(repo_id, repository, files, "initial commit")
        self.finish({"url": url, "name": repo_id, "id": repo_id})


class Info(Handler):
    """What there is to know about a repository at a revision."""

    def get(self, repo_id, revision):
        repository = self.repository(repo_id)
        commit_id, files = self.files(repository, revision)
        card = {}
        if "README.md" in files:
            readme = self.hub.content("README.md", files["README.md"])
            card = card_head(readme.read_text(encoding="utf-8"))
        self.finish(
            {
                "id": repo_id,
                "modelId": repo_id,
                "author": repo_id.split("/")[0],
                "sha": commit_id,
                "private": repository["private"],
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": card.get("tags", []),
                "cardData": card,
                "lastModified": repository["commits"][commit_id]["date"],
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )


class Tree(Handler):
    """The files and folders in a folder of a repository; with `recursive`, those below it too."""

    def get(self, repo_id, revision, folder):
        _, files = self.files(self.repository(repo_id), revision)
        start = folder.strip("/") + "/" if folder else ""
        inside = {path: about for path, about in sorted(files.items()) if path.startswith(start)}
        if folder and not inside:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        rows = [self._folder_row(path) for path in self._folders(inside, start)]
        rows += [self._file_row(path, about) for path, about in inside.items()]
        if self.get_query_argument("recursive", "").lower() not in ("true", "1"):
            rows = [row for row in rows if "/" not in row["path"][len(start) :]]
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(rows))

    @staticmethod
    def _folders(paths, start):
        """The folders (sorted list of str) that hold `paths`, as far as they lie in `start`."""
        found = set()
        for path in paths:
            for depth in range(1, path.count("/") + 1):
                found.add(path.rsplit("/", depth)[0])
        return sorted(folder for folder in found if folder.startswith(start))

    @staticmethod
    def _folder_row(path):
        return {"type": "directory", "path": path, "oid": "", "size": 0}

    @staticmethod
    def _file_row(path, about):
        row = {"type": "file", "path": path, "oid": about["oid"], "size": about["size"]}
        if about["large"]:
            row["lfs"] = {"oid": about["sha256"], "size": about["size"], "pointerSize": 0}
        return row


class Preupload(Handler):
    """How each file is to be sent, and which of them is here already."""

    def post(self, repo_id, revision):
        _, files = self.files(self.repository(repo_id, write=True), revision)
        answers = []
        for file in self.body["files"]:
            path = file["path"]
            mode = "lfs" if is_large(path, file["size"]) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            about = files.get(path)
            # What was lost here since is not named, so that the client sends it again.
            if about and self.hub.has_object(about["sha256"], about["size"]):
                answer["oid"] = about["sha256"] if about["large"] else about["oid"]
            answers.append(answer)
        self.finish({"files": answers})


class LargeFiles(Handler):
    """Where to send large files: an address that can be used once, for exactly this content.

    There is none for what is here already.
    """

    def post(self, repo_id):
        self.repository(repo_id, write=True)
        objects = []
        for wanted in self.body["objects"]:
            sha256, size = wanted["oid"], wanted["size"]
            if not SHA256.fullmatch(sha256) or type(size) is not int or size < 0:
                raise Refusal(422, "An object is named by its SHA-256 and has a size.")
            answer = {"oid": sha256, "size": size}
            if not self.hub.has_object(sha256, size):
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
        # Closed when the last piece is here, or the client is gone.
        self.stream = open(self.part, "wb")  # noqa: SIM115

    def data_received(self, chunk):
        self.stream.write(chunk)
        self.digest.update(chunk)

    def put(self, ticket):
        self.stream.close()
        if self.digest.hexdigest() != self.sha256 or self.part.stat().st_size != self.size:
            raise Refusal(400, "What arrived is not what was announced.")
        put_in_place(self.part, self.hub.object_path(self.sha256))
        del self.hub.uploads[ticket]

    def on_connection_close(self):
        super().on_connection_close()
        self.on_finish()

    def on_finish(self):
        if self.stream is not None:
            self.stream.close()
            self.part.unlink(missing_ok=True)


class Commit(Handler):
    """A list of operations, sent as JSON lines, all of which become visible at once."""

    def post(self, repo_id, revision):
        repository = self.repository(repo_id, write=True)
        if revision != "main":
            raise Refusal(400, "The practice Hub has one branch, main.")
        head, *operations = [json.loads(line) for line in self.request.body.splitlines()]
        files = dict(self.files(repository, "main")[1])
        for operation in operations:
            self._apply(operation["key"], operation["value"], files)
        commit_id = self.hub.add_commit(repo_id, repository, files, head["value"]["summary"])
        url = f"{self.hub.endpoint}/{repo_id}/commit/{commit_id}"
        self.finish({"success": True, "commitOid": commit_id, "commitUrl": url})

    def _apply(self, kind, value, files):
        """Carry out one operation on `files`, a {path: what `file_record` says}, in place."""
        path = value["path"]
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise Refusal(400, f"{path} is no path inside a repository.")
        if kind == "file":
            data = base64.b64decode(value["content"])
            files[path] = small_file(data, self.hub.store(data))
        elif kind == "lfsFile":
            sha256, size = value["oid"], value["size"]
            if not SHA256.fullmatch(sha256) or not self.hub.has_object(sha256, size):
                raise Refusal(400, f"{path} points to content that was not uploaded.")
            files[path] = large_file(sha256, size)
        elif kind == "deletedFile":
            files.pop(path, None)
        else:
            raise Refusal(400, f"The practice Hub has no operation {kind}.")


class Resolve(Handler):
    """A file of a repository at a commit; `Range` lets an interrupted download go on."""

    commit_id = None

    def head(self, repo_id, revision, path):
        self.announce(repo_id, revision, path)
        self.finish()

    async def get(self, repo_id, revision, path):
        source, first, last = self.announce(repo_id, revision, path)
        left = last - first + 1
        with source.open("rb") as stream:
            stream.seek(first)
            while left > 0:
                piece = stream.read(min(PIECE_BYTES, left))
                if not piece:  # cut off since it was announced: the client sees that it ends early
                    self.detach().close()
                    return
                left -= len(piece)
                self.write(piece)
                await self.flush()

    def announce(self, repo_id, revision, path):
        """Set status and headers; returns (path of the object, first byte, last byte)."""
        self.commit_id, files = self.files(self.repository(repo_id), revision)
        about = files.get(path)
        if about is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        source = self.hub.content(path, about)
        self.set_header("X-Repo-Commit", self.commit_id)
        first, last = self._range(about["size"])
        self.set_header("ETag", f'"{about["sha256"] if about["large"] else about["oid"]}"')
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(last - first + 1))
        return source, first, last

    def _range(self, size):
        """(first, last) byte that the client asks for of a file of `size` bytes."""
        first, last = 0, size - 1
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request.headers.get("Range", ""))
        if wanted is None:
            return first, last
        first, last = int(wanted[1]), min(int(wanted[2] or last), last)
        if first > last:
            raise Refusal(416, "The file ends before this.")
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {first}-{last}/{size}")
        return first, last

    def compute_etag(self):
        return None  # announce() sets it

    def write_error(self, status_code, **about):
        if self.commit_id:  # then the client remembers that this commit has no such file
            self.set_header("X-Repo-Commit", self.commit_id)
        super().write_error(status_code, **about)
