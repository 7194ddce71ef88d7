"""Files: which there are in a folder, their hashes, and writing that is never seen half done."""

import hashlib
import json
import os
from pathlib import Path


def hidden(path, folder):
    """True when the name of `path`, or of a folder between it and `folder`, begins with a dot.

    Both are Paths, `path` one inside `folder`.
    """
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def contents(folder, left_out=()):
    """{name: Path} of the files in `folder` (Path) and below it, sorted by name.

    Hidden files, a manifest and the sub-folders named in `left_out` are not among them.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        wanted = name != "manifest.json" and name.split("/")[0] not in left_out
        if path.is_file() and wanted and not hidden(path, folder):
            found[name] = path
    return found


def sha256(path):
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_hash(*texts):
    """SHA-256 (64 hexadecimal digits) over several texts or JSON values; where one ends matters."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def write_text(path, text):
    """Write `text` (str) to the file `path` in UTF-8.

    Whoever reads meanwhile sees the old file or the whole new one, never half of it. A write that
    fails (OSError) leaves the old file.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # there only when the disk was full


def write_json(path, value):
    """Write `value` as JSON, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    """The value in a JSON file. Raises ValueError when it is no JSON."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
