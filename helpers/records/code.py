"""Which code the results of a notebook come from, and one hash over what it computes."""

import ast
import functools
import re

from helpers.records import files, folders

# No result depends on these: figures, progress, the machine check, a server that hands back what it
# got.
NO_RESULTS = (
    "helpers.plots",
    "helpers.machine",
    "helpers.publish.pictures",
    "helpers.publish.practice_hub",
    "helpers.train.progress",
)
# Nor on these cells: parameters, for example, are recorded by their values.
NO_RESULT_TAGS = {"setup", "parameters"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_hash(notebook):
    """SHA-256 (str) over the code of `notebook` and of all helpers that it imports, at any depth.

    Comments, docstrings and layout do not count, nor do the cells and modules that no result
    depends on (`NO_RESULT_TAGS`, `NO_RESULTS`).
    """
    waiting = _cells(notebook)
    computing, seen = [], set(NO_RESULTS)
    while waiting:
        source = waiting.pop()
        computing.append(_without_comments(source))
        for module in imported(source) - seen:
            seen.add(module)
            waiting.append(_path(module).read_text(encoding="utf-8"))
    return files.text_hash(*sorted(computing))


def imported(source):
    """Names (set of str) of the modules of `helpers` that a piece of Python (str) imports.

    Imports inside functions count. A module's packages are among them, for they run first.
    """
    found = set()
    for name in _names_after_import(source):
        parts = name.split(".")
        if parts[0] == "helpers":
            found |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return {name for name in found if _path(name).is_file()}


def _cells(notebook):
    """The sources (list of str) of a lesson's code cells that results depend on."""
    cells = files.read_json(folders.NOTEBOOKS / f"{notebook}.ipynb")["cells"]
    sources = []
    for cell in cells:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and NO_RESULT_TAGS.isdisjoint(tags):
            sources.append("".join(cell["source"]))
    return sources


def _path(module):
    """Path of a module's file; a package's is its `__init__.py`."""
    path = folders.REPOSITORY.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache  # every notebook brings the same helpers
def _names_after_import(source):
    """Dotted names (set of str) of what a piece of Python imports, modules or what is in them."""
    names = set()
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def _parsed(source):
    """The syntax tree of a piece of Python; of what is none, an empty one.

    Lines that only IPython understands (%magic, !command) are passed over, so that a cell's imports
    are found beside them.
    """
    for text in (source, re.sub(r"(?m)^([ \t]*)[%!].*$", r"\1pass", source)):
        try:
            return ast.parse(text)
        except SyntaxError:
            continue
    return ast.Module(body=[], type_ignores=[])


@functools.cache
def _without_comments(source):
    """`source` as text without comments, docstrings and layout; as it is when it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)
