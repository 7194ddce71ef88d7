"""The wheels for other systems: what they need there, and downloading it."""

import shutil

import pytest
from support import wheel

from course import wheels


def needs(folder, platform):
    """What the package demo still needs on a platform, in Python 3.11."""
    return wheels.missing(folder, ["demo==1.0"], wheels.environment(platform, "3.11"))


def test_what_other_systems_need_is_found(tmp_path):
    requires = [
        'colorama>=0.4; sys_platform == "win32"',
        'appnope; platform_system == "Darwin"',
        "part[more]<2",
    ]
    wheel(tmp_path, "demo", requires=requires)
    requires = [
        'colorama!=0.5; os_name == "nt"',
        'extra_one>=3; extra == "more"',
        'unwanted; extra == "other"',
        'backport; python_full_version < "3.11.3"',
        'old; python_version < "3.10"',
    ]
    wheel(tmp_path, "part", requires=requires)
    assert needs(tmp_path, "linux-x86_64") == ["backport", "extra-one>=3"]
    assert needs(tmp_path, "macos-arm64") == ["appnope", "backport", "extra-one>=3"]
    windows = ["backport", "colorama!=0.5,>=0.4", "extra-one>=3"]
    assert needs(tmp_path, "windows-x86_64") == windows
    wheel(tmp_path, "backport")
    wheel(tmp_path, "extra_one", "3.1", python=">=3.11.5")
    assert needs(tmp_path, "linux-x86_64") == []


def test_the_first_version_that_all_wheels_allow(tmp_path):
    assert wheels.lowest(tmp_path, "3.12") == "3.12.0"
    wheel(tmp_path, "one", python=">=3.8,!=3.12.0")
    wheel(tmp_path, "two", python=">=3.11.5")
    assert wheels.lowest(tmp_path, "3.11") == "3.11.5"
    assert wheels.lowest(tmp_path, "3.12") == "3.12.1"


def test_packages_that_need_each_other(tmp_path):
    wheel(tmp_path, "demo", requires=["part"])
    wheel(tmp_path, "part", requires=["demo"])
    assert needs(tmp_path, "linux-x86_64") == []


def test_wheels_for_another_system(tmp_path, monkeypatch):
    """From a folder that pip looks in instead of an index."""
    index, target = tmp_path / "index", tmp_path / "target"
    index.mkdir()
    target.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", index.as_uri())
    wheel(index, "demo", requires=['colorama>=0.4; sys_platform == "win32"'])
    wheel(index, "colorama", "0.4.6")
    wheels.download(target, "windows-x86_64", "3.12", ["demo==1.0"])
    assert sorted(path.name for path in target.iterdir()) == [
        "colorama-0.4.6-py3-none-any.whl",
        "demo-1.0-py3-none-any.whl",
    ]
    (index / "colorama-0.4.6-py3-none-any.whl").unlink()
    shutil.rmtree(target)
    sentence = "No wheels for windows-x86_64, Python 3.12: .*colorama>=0.4"
    with pytest.raises(wheels.WheelError, match=sentence):
        wheels.download(target, "windows-x86_64", "3.12", ["demo==1.0"])
