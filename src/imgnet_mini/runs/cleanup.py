"""Removal of unfinished files."""

from typing import Final

from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.atomic_file import remove_temporary_files

_MIN_AGE: Final = 3600
"""Seconds; longer than any write takes."""


def clean_run(paths: RunPaths) -> int:
    """Remove unfinished files of killed processes from a locked run and return their number.

    Reports are written without the lock, so only old files are removed there.
    """
    return remove_temporary_files(*paths.training_dirs()) + clean_reports(paths)


def clean_reports(paths: RunPaths) -> int:
    """Remove unfinished files older than an hour from the reports and return their number."""
    return remove_temporary_files(paths.report_dir, older_than=_MIN_AGE)
