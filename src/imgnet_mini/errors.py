"""Errors that a user can cause and cure; anything else is a bug and keeps its traceback."""


class ImgnetMiniError(Exception):
    """Base of every error that is reported as one message, without a traceback."""

    exit_code = 1


class ConfigError(ImgnetMiniError):
    """The settings are malformed, contradict one another or do not fit this machine."""

    exit_code = 2


class InUseError(ImgnetMiniError):
    """Another process is writing what this one wants to write."""

    exit_code = 3


class DataError(ImgnetMiniError):
    """The images or their folders cannot be used."""

    exit_code = 4


class WriteError(ImgnetMiniError):
    """A file or folder of the run cannot be written."""

    exit_code = 5


class CheckpointError(ImgnetMiniError):
    """A checkpoint is missing, damaged, or belongs to something else."""

    exit_code = 6


class DivergedError(ImgnetMiniError):
    """A loss or a weight is no longer a finite number."""

    exit_code = 7


class RankError(ImgnetMiniError):
    """What one of several processes has failed in; its message names the process."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LostRankError(ImgnetMiniError):
    """Another process of the run is gone, or does not answer."""


class StoppedError(ImgnetMiniError):
    """Ctrl-C or SIGTERM ended the command after it had saved what it could."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StaleError(ImgnetMiniError):
    """A written file no longer shows what the runs hold (`--check`)."""

    exit_code = 1


class ExportError(ImgnetMiniError):
    """An exported file does not say what the network says."""

    exit_code = 1


class FailedImagesError(ImgnetMiniError):
    """Some of the images that were named could not be read; all others are done."""

    exit_code = 1
