"""What a command line asks of the runner, and whether that can be done; nothing is started here."""

import ast
import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from course.execute import literal
from helpers.records import folders, parameters

# What reading YAML raises; also for dates like 2024-13-45, and for nesting without end.
UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)


class UsageError(ValueError):
    """The command line asks for something that cannot be done; one sentence."""


@dataclass(frozen=True)
class Options:
    """The options of `course run`: with nothing given, all five notebooks on their defaults."""

    run_dir: str = ""
    """Where results go; "" means as in the notebooks."""
    params: str = ""
    """A YAML file with parameters, or ""."""
    values: tuple = ()
    """Single parameters as (name, text) pairs, which win over the file's."""
    first: str = "01"
    """How the name of the first notebook begins."""
    last: str = "05"
    """How the name of the last notebook begins."""
    force: bool = False
    """Run finished steps again."""
    processes: int | None = None
    """On how many processes 03 trains; None means what the configuration says, or 1."""
    accelerate_config: str = ""
    """An Accelerate configuration file for 03, or ""."""

    def given(self, combination=()):
        """The parameters that were given, as {name: value}.

        Those of the file come first, then those of a grid's combination ({name: value}), then
        single ones; the later wins. Raises UsageError for an unknown name or a file that cannot be
        read.
        """
        given = read_yaml("--params", self.params) if self.params else {}
        given.update(combination)
        given.update({name: _value(name, text) for name, text in self.values})
        if given.pop("run_dir", None):
            raise UsageError("run_dir: give it with --run-dir, so that all notebooks share one.")
        _refuse_unknown(given)
        for name in ("data_path", "model_id"):
            # What is typed is meant from where it is typed; the notebooks run in their own folder.
            # os.path.exists is False, and no error, for names that cannot be.
            if isinstance(given.get(name), str) and os.path.exists(given[name]):
                given[name] = str(Path(given[name]).resolve())
        return given

    def notebooks(self):
        """Names of the notebooks to run, in order; raises UsageError when there are none."""
        first, last = _position(self.first), _position(self.last)
        if first > last:
            raise UsageError(f"--from {self.first} comes after --until {self.last}.")
        return parameters.NOTEBOOKS[first : last + 1]


def read_yaml(option, path):
    """The mapping in a YAML file, {} when it is empty.

    Raises UsageError, which begins with the name of the `option` that named the file.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig")) or {}
    except FileNotFoundError:
        raise UsageError(f"{option} {path}: there is no such file.") from None
    except (*UNREADABLE, OSError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{option} {path} cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{option} {path}: should hold lines of the form 'name: value'.")
    return content


def _value(name, text):
    """What `text`, typed for the parameter `name`, stands for: its value as YAML, or itself."""
    if not text or name in parameters.TEXTS:
        return text
    try:
        return yaml.safe_load(text)
    except UNREADABLE:
        return text


def _refuse_unknown(given):
    """Raise UsageError when one of the names in `given` (dict) is no notebook's parameter."""
    known = {name for rules in parameters.RULES.values() for name in rules}
    for name in given:
        if name not in known:
            similar = difflib.get_close_matches(str(name), known, n=1)
            every = f"known are: {', '.join(sorted(known))}."
            hint = f"did you mean {similar[0]}?" if similar else every
            raise UsageError(f"{name}: unknown parameter; {hint}")


def _position(beginning):
    """Which of the notebooks has a name that begins so (int); raises UsageError unless one does."""
    names = [name for name in parameters.NOTEBOOKS if beginning and name.startswith(beginning)]
    if len(names) != 1:
        every = ", ".join(parameters.NOTEBOOKS)
        raise UsageError(f"{beginning}: no such notebook; there are {every}.")
    return parameters.NOTEBOOKS.index(names[0])


def defaults(notebook):
    """What stands in the parameters cell of `notebook` (str), as {name: value}.

    Raises UsageError for what is no plain value, e.g. `1e-3 / 2`: only the notebook could say what
    that comes to, and then nothing could be checked before it starts.
    """
    import papermill  # here, because it takes a second and a half; most refusals come before

    path = folders.NOTEBOOKS / f"{notebook}.ipynb"
    values = {}
    for name, declared in papermill.inspect_notebook(literal(path)).items():
        try:
            values[name] = ast.literal_eval(declared["default"])
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise UsageError(
                f"{notebook}: its parameters cell sets {name} to {declared['default']}, which is "
                "no plain value: write the number or the text itself there."
            ) from None
    return values


def checked_parameters(given):
    """Checked parameters of every notebook: its own defaults, replaced by `given`, a {name: value}.

    Returns {notebook: {name: value}}; raises UsageError or ParameterError.
    """
    checked = {}
    for notebook in parameters.NOTEBOOKS:
        values = defaults(notebook)
        values.update({name: value for name, value in given.items() if name in values})
        checked[notebook] = parameters.check(notebook, values)
    parameters.check_together(checked)
    return checked
