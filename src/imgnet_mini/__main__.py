"""The process of the command line: `imgnet-mini`, or `python -m imgnet_mini`."""

import signal

from imgnet_mini.utils.early_exit import exit_on_signal


def main() -> None:
    """Run the command line; from here on a signal ends it with a line and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, exit_on_signal)
    from imgnet_mini.cli import main as run  # takes a second, in which signals come too

    run(is_process=True)


if __name__ == "__main__":  # a spawned data worker imports this file again
    main()
