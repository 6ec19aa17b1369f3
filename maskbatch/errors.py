"""What can go wrong. A bad image ends no run: it is an ImageError inside a hop, then a row with a status.

    MaskbatchError          exit code 1
    ├── UsageError          2   the command, archive, checkpoint or settings cannot be used
    │   └── NothingToPlanError      no image is in the archive
    │       └── NoImagesError       it has some, and none of what was asked for
    ├── RunLockedError      5   another live run holds OUT
    └── RunFailedError      1   the run stopped; it is resumable
    ImageError                  one image or member cannot be used

Messages are one sentence: what, where, got, expected, what to do. All survive pickling, because
workers raise them too.
"""

DONE = 0
FAILED = 1
TOO_MANY_FAILED_IMAGES = 3
ALERT = 4
INTERRUPTED = 130


class MaskbatchError(Exception):
    """Base of everything maskbatch raises on purpose; `exit_code` is what the command line returns."""

    exit_code = FAILED


class UsageError(MaskbatchError):
    """The request itself is wrong: nothing was started and nothing was lost."""

    exit_code = 2


class NothingToPlanError(UsageError):
    """Nothing at all was found: a wrong path, a share that is not mounted, or all was deleted."""


class NoImagesError(NothingToPlanError):
    """The filters leave nothing of an archive: on a night, nothing came."""


class RunLockedError(MaskbatchError):
    """Another driver is working on this run directory."""

    exit_code = 5


class RunFailedError(MaskbatchError):
    """The run could not go on; what is staged stays, and the same command resumes it."""


class ImageError(Exception):
    """One image cannot be used: `status` is its row's status, `message` its row's error."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message
