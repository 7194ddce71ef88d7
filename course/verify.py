"""Is a run directory as its manifests say?"""

import sys

from helpers.records import folders, manifests


def verify(run_dir):
    """Print what in `run_dir` (path) was altered, is missing or was added.

    Returns the exit code: 1 when there is something, 2 when no notebook has been finished there.
    """
    try:
        altered = manifests.verify(run_dir)
    except folders.ArtefactError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(altered) or f"Every file in {run_dir} is as its manifest says.")
    return 1 if altered else 0
