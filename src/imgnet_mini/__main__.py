"""Entry point of `imgnet-mini` and `python -m imgnet_mini`."""

from imgnet_mini.utils.early_exit import exit_on_signals


def main() -> None:
    """Run the command line; signals end it with a message and an exit code."""
    exit_on_signals()
    from imgnet_mini.cli import main as run  # takes a second; signals may arrive meanwhile

    run(is_process=True)


if __name__ == "__main__":  # spawned worker processes import this file too
    main()
