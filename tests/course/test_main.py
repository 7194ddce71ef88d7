"""The entry: it works where nothing is installed, and says what is missing."""

import subprocess
import sys

import pytest

from helpers.records import folders


def without_packages(*arguments):
    """The command line in a Python without site-packages; returns the finished process."""
    command = [sys.executable, "-S", "-m", "course", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=folders.REPOSITORY
    )


def test_without_any_package_the_check_reports_and_fails():
    done = without_packages("check")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for line in (
        "packaging is missing",
        "torch cannot be imported",
        "jupyter_client is missing",
        "memory         unknown: No module named",
        "model cache    unknown: No module named",
    ):
        assert line in done.stdout


@pytest.mark.parametrize("arguments", [(), ("run",), ("--help",)])
def test_without_any_package_the_others_say_what_to_install(arguments):
    done = without_packages(*arguments)
    assert done.returncode == 1 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and "make course" in done.stderr
