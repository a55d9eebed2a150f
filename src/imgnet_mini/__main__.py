"""Entry point of `imgnet-mini` and `python -m imgnet_mini`."""

import signal

from imgnet_mini.utils.early_exit import exit_on_signal


def main() -> None:
    """Run the command line; signals end it with a message and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, exit_on_signal)
    from imgnet_mini.cli import main as run  # takes a second; signals may arrive meanwhile

    run(is_process=True)


if __name__ == "__main__":  # spawned worker processes import this file too
    main()
