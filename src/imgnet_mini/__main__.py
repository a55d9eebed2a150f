"""`python -m imgnet_mini`, the same command line."""

from imgnet_mini.cli import main

if __name__ == "__main__":  # a spawned data worker imports this file again
    main()
