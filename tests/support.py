"""What several test files use: the command line, here and as in a terminal, and wheels."""

import contextlib
import io
import os
import subprocess
import sys
import zipfile

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


def wheel(folder, name, version="1.0", requires=(), python=">=3.8", tag="py3-none-any"):
    """Write a wheel without code into `folder` (Path); returns its Path."""
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    head = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {python}"]
    metadata = "\n".join(head + [f"Requires-Dist: {line}" for line in requires]) + "\n"
    about = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", about)
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path
