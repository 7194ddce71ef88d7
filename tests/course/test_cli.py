"""The command line: its table of contents, what reaches the modules behind it, and exit codes."""

import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib

import pytest
from support import course, course_alone

from course import __main__, bundle, catch_up, cli, exercises, handouts, refresh, run
from course.options import Options
from helpers.model import default_model
from helpers.records import folders, parameters

HEAVY = {"torch", "transformers", "papermill", "pandas", "matplotlib", "nbconvert", "datasets"}


def test_help_is_a_table_of_contents():
    done = course("--help")
    assert done.returncode == 0
    listed = re.findall(r"^  ([a-z-]+)  +\S", done.stdout, re.MULTILINE)
    assert listed == [name for names in cli.CONTENTS.values() for name in names]
    assert set(listed) == set(cli.commands.commands)
    for command in cli.commands.commands.values():
        assert not command.get_short_help_str(80).endswith("...")
    assert "_COURSE_COMPLETE=bash_source" in done.stdout
    assert list(cli.NUMBERS) == [name[:2] for name in parameters.NOTEBOOKS]


@pytest.mark.parametrize("name", cli.commands.commands)
def test_every_command_has_help(name):
    done = course(name, "--help")
    assert done.returncode == 0 and f"{name} [OPTIONS]" in done.stdout


@pytest.mark.parametrize(
    "arguments, code",
    [(["--help"], 0), (["run", "-p", "lora_rr", "1"], 2), (["verify", "nowhere"], 2), (["no"], 2)],
)
def test_help_and_refusals_load_nothing_heavy(arguments, code, tmp_path):
    script = (
        "import json, sys\nfrom course import cli\ncode = cli.main(sys.argv[1:])\n"
        "print(json.dumps([code, *{name.split('.')[0] for name in sys.modules}]))"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    got, *loaded = json.loads(done.stdout.splitlines()[-1])
    assert got == code and not HEAVY & set(loaded)


def test_what_is_typed_reaches_the_runner(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "course", lambda options: seen.append(options) or "folder")
    monkeypatch.setattr(run, "show_results", lambda folder: seen.append(folder))
    monkeypatch.setattr(run, "course_of_grid", lambda options, grid: seen.append(grid) or 1)
    assert course("run").returncode == 0
    assert seen == [Options(), "folder"]
    words = "--run-dir d --params f.yaml -p seed 2 -p lora_alpha -3 --from 02 --until 03 --force"
    given = [*words.split(), "--processes", "2", "--accelerate-config", "a.yaml"]
    assert course("run", *given).returncode == 0
    wanted = Options(
        run_dir="d",
        params="f.yaml",
        values=(("seed", "2"), ("lora_alpha", "-3")),
        first="02",
        last="03",
        force=True,
        processes=2,
        accelerate_config="a.yaml",
    )
    assert seen[2:] == [wanted, "folder"]
    assert course("run", "--grid", "g.yaml").returncode == 1 and seen[4:] == ["g.yaml"]


def test_what_is_typed_reaches_the_other_commands(monkeypatch, tmp_path):
    seen = []

    def note(*arguments):
        seen.append(arguments)

    monkeypatch.setattr(catch_up, "fill_in", note)
    monkeypatch.setattr(bundle, "bundle", note)
    monkeypatch.setattr(handouts, "make", note)
    monkeypatch.setattr(exercises, "make", note)
    monkeypatch.setattr(refresh, "refresh", note)
    for line in (
        "catch-up 03 --run-dir d --from-run e -p seed 2",
        "bundle --platform linux-x86_64 --platform macos-arm64 --python 3.12 --run r --out o.zip",
        "handouts there",
        "exercises --run 01_data",
        "refresh --from 04",
    ):
        assert course(*line.split()).returncode == 0, line
    assert seen == [
        (Options(run_dir="d", first="03", values=(("seed", "2"),)), "e"),
        (("linux-x86_64", "macos-arm64"), ("3.12",), "r", "o.zip"),
        ("there",),
        (("01_data",), True),
        ("04",),
    ]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["run", "-p", "seed"], "Option '-p' requires 2 arguments"),
        (["run", "--processes", "many"], "'many' is not a valid integer"),
        (["catch-up", "06"], "'06' is not one of '01', '02', '03', '04', '05'"),
        (["bundle", "--platform", "linux-arm64"], "'linux-arm64' is not one of 'linux-x86_64'"),
        (["verify"], "Missing argument 'RUN_DIR'"),
        (["walk"], "No such command 'walk'"),
    ],
)
def test_wrong_usage_is_said_and_gives_2(arguments, sentence):
    done = course(*arguments)
    assert done.returncode == 2 and sentence in done.stderr


def test_ctrl_c_is_said_and_gives_130(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "course", interrupted)
    done = course("run")
    assert done.returncode == 130 and "The same command goes on" in done.stderr


def test_errors_give_their_sentence_and_1(monkeypatch):
    def failed(*_):
        raise default_model.ModelError("no model")

    def not_stored(*_):
        raise refresh.RefreshError("not stored")

    monkeypatch.setattr(default_model, "fetch", failed)
    monkeypatch.setattr(refresh, "refresh", not_stored)
    monkeypatch.setattr(exercises, "make", not_stored)
    for command, sentence in (
        ("model", "no model"),
        ("refresh", "not stored"),
        ("exercises", "not stored"),
    ):
        done = course(command)
        assert (done.returncode, done.stderr) == (1, f"{sentence}\n")


def test_the_model_that_is_there_is_not_fetched_again():
    done = course("model")
    assert done.returncode == 0 and "is ready in the cache" in done.stdout


def test_the_shell_completes_commands_and_options():
    script = "import sys; from course import __main__; sys.argv[0] = 'course'; __main__.main()"
    for words, wanted in (("course ca", "catch-up"), ("course run --ru", "--run-dir")):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"_COURSE_COMPLETE": "bash_complete"} | asked,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.stdout.split(",")[-1].strip() == wanted, done.stderr


def test_it_is_installed_as_course():
    pyproject = tomllib.loads((folders.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    place = pyproject["project"]["scripts"]["course"]
    assert pkgutil.resolve_name(place) is __main__.main
    done = course_alone("verify", folders.REPOSITORY / "tests")
    assert done.returncode == 2 and "holds no finished notebook" in done.stderr
