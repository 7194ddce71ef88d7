"""Whether a file is cut off or damaged.

A module of its own: `datasets` pickles the modules of functions that it maps, and what safetensors
brings cannot be pickled.
"""

import zipfile

from safetensors import SafetensorError, safe_open

from helpers.records import files


def damaged(path):
    """True when a file (Path) is cut off or unreadable, as far as its kind lets one see it.

    Kinds: JSON, notebooks, safetensors, and what torch.save writes. Other files count as whole, and
    so does what is not there.
    """
    try:
        if path.suffix in (".json", ".ipynb"):
            files.read_json(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):  # compares the file's length with its header
                pass
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as parts:  # torch.save writes a zip with checksums
                return parts.testzip() is not None
    except FileNotFoundError:
        return False
    except (ValueError, SafetensorError, zipfile.BadZipFile):
        return True
    return False
