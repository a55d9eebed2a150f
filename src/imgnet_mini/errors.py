"""Errors that a user can cause and fix; any other exception is a bug and keeps its traceback."""


class ImgnetMiniError(Exception):
    """Base of every error that is reported as one message, without a traceback."""

    exit_code = 1


class ConfigError(ImgnetMiniError):
    """Settings are malformed, contradict each other, or do not fit this machine."""

    exit_code = 2


class MemoryLimitError(ConfigError):
    """The settings need more memory than the device has."""


class InUseError(ImgnetMiniError):
    """Another process is writing the same run."""

    exit_code = 3


class DataError(ImgnetMiniError):
    """The images or their folders cannot be used."""

    exit_code = 4


class WriteError(ImgnetMiniError):
    """A file or folder of the run cannot be written."""

    exit_code = 5


class LostWorkerError(WriteError):
    """A worker process that loads images was killed."""


class CheckpointError(ImgnetMiniError):
    """A checkpoint is missing, damaged, or does not fit."""

    exit_code = 6


class DivergedError(ImgnetMiniError):
    """A loss or a weight is not finite."""

    exit_code = 7


class RankError(ImgnetMiniError):
    """A failure of one rank of several; the message names the rank."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LostRankError(ImgnetMiniError):
    """Another rank exited or does not respond."""


class StoppedError(ImgnetMiniError):
    """A signal, such as that of Ctrl-C, stopped the command after it saved its state."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StaleError(ImgnetMiniError):
    """A generated file is out of date (`--check`)."""


class ExportError(ImgnetMiniError):
    """The outputs of an exported file differ from those of the model."""


class FailedImagesError(ImgnetMiniError):
    """Some of the given images could not be read; all others are done."""
