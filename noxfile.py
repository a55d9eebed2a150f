"""Sessions: `nox` runs lint, typecheck, tests, docs and build; the others run when named."""

import json
import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "typecheck", "tests", "docs", "build"]
nox.options.error_on_missing_interpreters = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
DEMO_TOP1 = 95.0
PARALLEL = ["-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
"""One test process per core, at most four: each takes 2 GB with the processes it starts."""
OTHER_LOADERS = ["albumentations", "opencv-python-headless", "timm"]
"""What loading is compared with, besides torchvision; DALI too, where it is installed."""


def install_group(session: nox.Session, group: str) -> None:
    session.install(".[onnx,safetensors,hub]", *nox.project.dependency_groups(PYPROJECT, group))


@nox.session
def lint(session: nox.Session) -> None:
    session.install("ruff>=0.9")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typecheck(session: nox.Session) -> None:
    install_group(session, "dev")
    session.run("mypy")


def run_tests(session: nox.Session, marks: str, *arguments: str, **env: str) -> None:
    """Run pytest with byte code kept: else each process that a test starts compiles torch anew."""
    session.run("pytest", "-m", marks, *arguments, env={"PYTHONDONTWRITEBYTECODE": None, **env})


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, or with `nox -s tests -- ARGUMENTS` what pytest's arguments choose."""
    install_group(session, "tests")
    if session.posargs:
        run_tests(session, "not gpu", *session.posargs)
        return
    run_tests(session, "not gpu and not timing", *PARALLEL, "--durations=10")
    run_tests(session, "timing")


@nox.session
def oldest_typer(session: nox.Session) -> None:
    """Test the options with the oldest typer that is supported; its click was another package."""
    install_group(session, "tests")
    session.install("typer==0.20.0", "click==8.3.0")
    session.run("pytest", "-q", "tests/test_options.py")


@nox.session
def coverage(session: nox.Session) -> None:
    """Run all tests and list the lines that none reaches; slower than `tests`."""
    install_group(session, "tests")
    run_tests(session, "not gpu and not timing", *PARALLEL, "--cov", "--cov-report=")
    run_tests(session, "timing", "--cov", "--cov-append", "--cov-report=term")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/; a broken link or anchor is an error."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs"))
    session.run("zensical", "build", "--strict", "--clean")


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel, and run the demo from it: what a user installs is what is tried."""
    folder = Path(session.create_tmp()).resolve()
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"))
    wheel = max((folder / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    session.install(str(wheel))
    example = ["--name", "tiny-imagenet-mini", "--output-dir", "docs/example"]
    session.run("imgnet-mini", "readme", *example, "--readme", "docs/example.md", "--check")
    demo = folder / "demo"
    if demo.exists():
        session.run("python", "-c", "import shutil, sys; shutil.rmtree(sys.argv[1])", str(demo))
    session.chdir(folder)
    session.run("imgnet-mini", "--version")
    session.run("imgnet-mini", "recipe", "list")
    session.run("imgnet-mini", "demo", "--dir", "demo")
    top1 = json.loads((folder / "demo/reports/demo/metrics.json").read_text("utf-8"))["top1"]
    if top1 < DEMO_TOP1:
        session.error(f"the demo reached {top1:.2f} % top-1, and {DEMO_TOP1} % is promised")


@nox.session
def bench(session: nox.Session) -> None:
    """`nox -s bench -- --data-root FOLDER` takes your images; without it, some are made.

    `nox -s bench -- --against PATH_OR_VERSION` compares with an older build instead.
    """
    if "--against" in session.posargs:
        session.install(".")
        session.run("python", "benchmarks/against.py", *session.posargs)
        return
    session.install(".", *OTHER_LOADERS)
    session.run("python", "benchmarks/step.py")
    session.run("python", "benchmarks/loaders.py", "--seeding", "--markdown", *session.posargs)
    session.run("python", "benchmarks/scan.py", "--markdown")
    session.run("python", "benchmarks/report.py")
    session.run("python", "benchmarks/safety.py")
    session.run("python", "benchmarks/ranks.py")


@nox.session
def ablation(session: nox.Session) -> None:
    """Hours, or a GPU: `nox -s ablation -- --data-root FOLDER --work-dir FOLDER`; it goes on."""
    session.install(".")
    session.run("python", "benchmarks/ablation.py", *session.posargs)
    session.run("python", "benchmarks/overfitting.py", *session.posargs)
    session.run("python", "benchmarks/lr_advice.py", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """The long counts of the reliability tests: half an hour on two slow cores, and a table."""
    install_group(session, "tests")
    session.run("python", "tests/soak.py", *session.posargs)


@nox.session
def engines(session: nox.Session) -> None:
    """Launchers, in an environment of their own: TorchX requires an old urllib3."""
    session.install(".[torchx,ray]", *nox.project.dependency_groups(PYPROJECT, "engines"))
    run_tests(session, "not gpu", "tests/test_engines.py", *session.posargs)


@nox.session
def extras(session: nox.Session) -> None:
    """Optional packages: the page of `export --format space` in its own environment, trackers."""
    install_group(session, "tests")
    folder = Path(session.create_tmp()).resolve() / "space"
    session.run("python", "-m", "venv", "--clear", str(folder))
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    requirements = "src/imgnet_mini/export/space_files/requirements.txt"
    session.run(python, "-m", "pip", "install", "-q", "-r", requirements, external=True)
    run_tests(session, "not gpu", "tests/test_space_app.py", *session.posargs, SPACE_PYTHON=python)
    session.install(".[trackio,wandb]")  # last: trackio requires an old Pillow
    run_tests(session, "not gpu", "tests/test_real_trackers.py", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Needs a CUDA GPU."""
    install_group(session, "tests")
    session.install("timm")
    session.run("pytest", "-m", "gpu", *session.posargs)
    session.run("python", "benchmarks/gpu.py")
