"""Setting the course up where it is not installed, in Colab or on Kaggle.

The set-up cells run this file after they have cloned the repository, so it imports nothing but the
standard library.
"""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TOKEN = "HF_TOKEN"


def set_up(folder):
    """Install what the course needs, and go to `folder` of the repository (str, "notebooks").

    The torch that is installed stays, because it was built for the GPU there. Raises
    CalledProcessError when pip fails.
    """
    install()
    sys.path.insert(0, str(REPOSITORY))
    earlier = os.environ.get("PYTHONPATH")  # for the processes that the course starts
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), earlier]))
    os.chdir(REPOSITORY / folder)
    token = os.environ.get(TOKEN) or colab_secret() or kaggle_secret()
    if token:
        os.environ[TOKEN] = token


def install():
    """Install requirements.in beside the torch that is here."""
    kept = REPOSITORY / ".torch.txt"
    kept.write_text(f"torch=={importlib.metadata.version('torch')}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    wanted = ["--constraint", str(kept), "--requirement", str(REPOSITORY / "requirements.in")]
    subprocess.run([*pip, *wanted], check=True)


def colab_secret():
    """HF_TOKEN (str) from Colab's secrets, or None when it is not there or not to be read."""
    try:
        from google.colab import userdata

        return userdata.get(TOKEN)
    except Exception:  # no Colab, no such secret, no access to it, or no answer: one class each
        return None


def kaggle_secret():
    """HF_TOKEN (str) from Kaggle's secrets, or None when it is not there or not to be read."""
    try:
        from kaggle_secrets import UserSecretsClient

        return UserSecretsClient().get_secret(TOKEN)
    except Exception:  # no Kaggle, no such secret, not attached to this notebook
        return None
