"""Commands to try things out."""

from pathlib import Path
from typing import Annotated

import typer

from imgnet_mini.cli.entry import app
from imgnet_mini.cli.options import config_options
from imgnet_mini.cli.values import parse_number
from imgnet_mini.config.run_config import RunConfig


@app.command(rich_help_panel="Try it")
@config_options(
    *("run", "data", "model", "optimizer", "runtime"),
    leave_out=("name", "output_dir", "track", "sync_bn", "dist_timeout"),
    recipes=True,
)
def bench(
    *,
    seconds: Annotated[
        str,
        typer.Option(
            metavar="FLOAT",
            help="Approximate duration of the measurement in seconds (at least 1).",
            rich_help_panel="Bench",
        ),
    ] = "60",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.", rich_help_panel="Bench")
    ] = False,
    config: RunConfig,
) -> None:
    """Find the bottleneck of training on this machine, and try settings that remove it."""
    from imgnet_mini.commands import bench

    duration = parse_number("--seconds", seconds, at_least=1)
    bench.run(config, seconds=duration, as_json=as_json)


@app.command(rich_help_panel="Try it")
def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder to create; must be empty if it exists.")
    ] = Path("imgnet-mini-demo"),
    device: Annotated[
        str, typer.Option(metavar="auto|cuda|mps|cpu", help="Device to run on.")
    ] = "auto",
) -> None:
    """Run the whole workflow on handwritten digits: 1 to 2 minutes on two slow CPU cores."""
    from imgnet_mini.commands import demo

    demo.run(directory, device=device)
