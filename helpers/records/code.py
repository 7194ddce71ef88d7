"""Which code the results of a notebook come from, and one hash over what it computes."""

import ast
import hashlib

from helpers.records import files, folders

# No result depends on these: figures, the machine check, and a server that hands back what it got.
NO_RESULTS = ("helpers.plots", "helpers.machine", "helpers.publish.practice_hub")


def code_hash(notebook):
    """SHA-256 (str) over the code of `notebook` and of all helpers that it imports, directly or not.

    Comments, docstrings and layout do not count, nor do the set-up cell and the parameters cell,
    whose values are recorded by themselves.
    """
    parts, seen = [], set()
    queue = [_cells(notebook)]
    while queue:
        source = queue.pop()
        parts.append(_computing(source))
        for module in sorted(imported(source) - seen):
            seen.add(module)
            if module not in NO_RESULTS:
                queue.append(_path(module).read_text(encoding="utf-8"))
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


def imported(source):
    """Names (set of str) of the modules of `helpers` that a piece of Python imports, wherever it does."""
    found = set()
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "helpers" and _path(name).is_file()}


def _cells(notebook):
    """The code (str) of a lesson's cells, set-up and parameters left out."""
    cells = files.read_json(folders.NOTEBOOKS / f"{notebook}.ipynb")["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    computing = [
        c for c in code if not {"setup", "parameters"} & set(c["metadata"].get("tags", []))
    ]
    return "\n".join("".join(cell["source"]) for cell in computing)


def _path(module):
    """Path of a module's file; a package's is its `__init__.py`."""
    path = folders.REPOSITORY.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _parsed(source):
    """The syntax tree of a piece of Python; of what is none (a cell with IPython's magics), an empty one."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def _computing(source):
    """`source` as text without comments, docstrings and layout; as it is when it is no Python."""
    tree = _parsed(source)
    if not tree.body:
        return source
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node) is not None:
            node.body = body[1:]
    return ast.dump(tree)
