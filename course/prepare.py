"""Prepared copies: the lessons without outputs and with parameters in place, to step through.

They lie in the run directory's folder `notebooks`, where each runs as it would in the repository:
a relative `data_path` still means the same file, results go to this run directory, and links to
what is not there lead to the repository on the web.
"""

import os
import posixpath
import re

import yaml

from course import refresh
from course.execute import PREPARED, literal
from course.options import UsageError, checked_parameters
from course.run import hold_run_directory
from helpers.records import files, folders

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^()\s]+(?=\))")
BADGE = re.compile(r"^\[!\[.*\n\n?", re.MULTILINE)
CATCH_UP = re.compile(r'(%run -m course catch-up \d\d --run-dir "\{run_dir\}")')


def prepare(options):
    """Write the copies that `options` (Options) asks for; returns the run directory (Path).

    Nothing is run, so a model that this machine cannot load or has no access to is no hindrance.
    Raises UsageError or ParameterError before anything is written, also when a copy is there
    already and `force` is not set, and ArtefactError when another process holds the folder.
    """
    if options.accelerate_config or options.processes is not None:
        raise UsageError("--prepare runs nothing: leave out --processes and --accelerate-config.")
    given, names = options.given(), options.notebooks()
    checked = checked_parameters(given)
    run_dir, lock = hold_run_directory(options.run_dir)
    try:
        folder = run_dir / "notebooks"
        there = [name for name in names if (folder / f"{name}.ipynb").exists()]
        if there and not options.force:
            raise UsageError(
                f"{folder} already holds {', '.join(there)}: choose another --run-dir, or replace "
                "them with --force."
            )
        folder.mkdir(exist_ok=True)
        if given:
            text = yaml.safe_dump(given, allow_unicode=True, sort_keys=False)
            files.write_text(run_dir / "parameters.yaml", text)
        for name in names:
            own = {key: value for key, value in given.items() if key in checked[name]}
            copy = prepared_copy(name, names, {**own, "run_dir": str(run_dir)}, bool(given))
            refresh.write(copy, folder / f"{name}.ipynb")
    finally:
        lock.release(force=True)
    return run_dir


def prepared_copy(name, names, values, has_file=False):
    """The lesson `name` (NotebookNode) without outputs and with parameters in place.

    values: {parameter: value}; names: the lessons that lie beside it; has_file: whether the run
    directory has the parameters as a file, too, which catching up then reads.
    """
    # Here, for these take seconds, and most refusals come before.
    from nbconvert.preprocessors import ClearOutputPreprocessor
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    lesson = load_notebook_node(literal(folders.NOTEBOOKS / f"{name}.ipynb"))
    copy, _ = ClearOutputPreprocessor().preprocess(parameterize_notebook(lesson, values), {})
    for cell in copy.cells:
        cell.metadata.pop("papermill", None)
        if not cell.metadata.get("tags"):  # papermill gives every cell a list of them
            cell.metadata.pop("tags", None)
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(
                lambda found: _target(found[0], names), BADGE.sub("", cell.source)
            )
        elif has_file:
            cell.source = CATCH_UP.sub(r'\1 --params "{run_dir}/parameters.yaml"', cell.source)
    del copy.metadata["papermill"]
    copy.metadata[PREPARED] = True
    return copy


def _target(link, names):
    """Where a relative link of a lesson leads from a prepared copy (str)."""
    path, mark, anchor = link.partition("#")
    if path in {f"{name}.ipynb" for name in names}:
        return link
    repository, ref = refresh.repository()
    place = posixpath.normpath(posixpath.join("notebooks", path))
    return f"{repository}/blob/{ref}/{place}{mark}{anchor}"


def copies(options, grid=""):
    """Write the copies that `options` (Options) asks for and say how to open them; returns None.

    grid: a grid's file, which is refused; raises what `prepare` raises.
    """
    if grid:
        raise UsageError("--prepare makes copies for one run: leave out --grid.")
    folder = prepare(options) / "notebooks"
    shown = os.path.relpath(folder) if folder.is_relative_to(os.getcwd()) else folder
    print("The notebooks are ready to be stepped through, in order. To open them:")
    print(f'python -m jupyterlab "{shown}"')
