"""What several test files start: the runner, in this process and as in a terminal."""

import contextlib
import io
import os
import subprocess
import sys

from course import cli


def course_alone(*arguments, cwd=None, **environment):
    """The command line as it is started in a terminal; returns the finished process."""
    command = [sys.executable, "-m", "course", *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=cwd, env=os.environ | environment
    )


def course(*arguments, cwd="."):
    """The command line in this process, which need not import everything again.

    Returns what `course_alone` does.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(cwd):
        code = cli.main([*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def run_alone(*arguments, cwd=None, **environment):
    """`course run` as it is started in a terminal; returns the finished process."""
    return course_alone("run", *arguments, cwd=cwd, **environment)


def run(*arguments, cwd="."):
    """`course run` in this process; returns the finished process."""
    return course("run", *arguments, cwd=cwd)
