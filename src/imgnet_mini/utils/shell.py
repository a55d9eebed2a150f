"""Commands that a user can paste into a shell."""

import shlex


def tensorboard_command(log_dir: str) -> str:
    """Return the command that shows the runs in a folder, with all points of each curve.

    By default, TensorBoard shows 1,000 of them; 0 would show none.
    """
    samples = ["--samples_per_plugin", "scalars=100000000"]
    return shlex.join(["tensorboard", "--logdir", log_dir, *samples])
