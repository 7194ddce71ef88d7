"""The whole tree: formatted, without lint, and with imports that go one way."""

import ast
import subprocess
import sys

import pytest

from helpers.records import folders


@pytest.mark.parametrize("command", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    """Over code, tests and notebooks; ruff leaves out what git ignores."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."],
        check=False,
        capture_output=True,
        text=True,
        cwd=folders.REPOSITORY,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def modules():
    """{name: Path} of the modules of course/ and helpers/; a package has the name of its folder."""
    found = {}
    for package in ("course", "helpers"):
        for path in sorted((folders.REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(folders.REPOSITORY).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path, known):
    """Which of the modules `known` the file at `path` imports, wherever in it (set of str)."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name in known and known[name].name != "__init__.py"}


def circle(graph):
    """A circle in {module: set of modules that it imports} as a list of names, or []."""
    finished = set()

    def follow(name, trail):
        if name in trail:
            return trail[trail.index(name) :]
        if name in finished:
            return []
        for other in sorted(graph[name]):
            found = follow(other, [*trail, name])
            if found:
                return found
        finished.add(name)
        return []

    return next(filter(None, (follow(name, []) for name in graph)), [])


def test_imports_go_one_way():
    known = modules()
    graph = {name: imports(path, known) for name, path in known.items()}
    assert graph["course.run"] > {"course.grid", "helpers.records.manifests"}  # it does see them
    for name, others in graph.items():
        if name.startswith("helpers."):
            assert not [other for other in others if other.startswith("course")], name
        if name.startswith("helpers.records."):
            assert all(other.startswith("helpers.records.") for other in others), name
    assert circle(graph) == []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
