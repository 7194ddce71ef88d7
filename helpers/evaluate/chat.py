"""Questions for the last cell of 05: typed by a person, or one that stands in for them."""

from IPython import get_ipython

INVITATION = "Your question (press Enter alone to stop): "


def questions(instead):
    """Yields what a person types, line by line, until an empty line.

    Where nobody can type, as in a batch run, yields `instead` (str) alone.
    """
    if not someone_can_type():
        yield instead
        return
    while question := input(INVITATION).strip():
        yield question


def someone_can_type():
    """True in a notebook whose front end offers an input box, and in a terminal's IPython."""
    shell = get_ipython()
    if shell is None:
        return False
    kernel = getattr(shell, "kernel", None)
    # Front ends say with every cell whether they can ask: JupyterLab and Colab do, papermill not.
    return kernel is None or bool(kernel._allow_stdin)
