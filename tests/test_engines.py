"""The launchers that docs/distributed.md names, each in its real form; `nox -s engines` has them.

A run that is killed or stopped under each of them ends with the bits of one that never was.
"""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import write_folder
from helpers.outcomes import differences, outcome
from helpers.rank_runs import run_ranks
from imgnet_mini import cli

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="no such launchers on Windows"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ROOT = Path(__file__).parents[1]
EPOCHS = 8
KILL_AFTER = "[Val] Epoch 002"
PATIENCE = 900
"""Seconds that a run may take to start, or to end: hardly any are needed on an idle machine."""


def flags(data, output_dir):
    return (
        *("--data-root", data, "--output-dir", output_dir, "--name", "a", "--epochs", EPOCHS),
        *("--arch", "shufflenet_v2_x0_5", "--img-size", 32, "--batch-size", 12, "--workers", 0),
        *("--max-lr", 0.001, "--no-amp"),
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "data", train=8, val=3, classes=3)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """What a run of two ranks leaves that was never stopped."""
    folder = tmp_path_factory.mktemp("finished")
    assert run_ranks(folder, 2, "train", *flags(images, folder)) == [0, 0]
    return outcome(folder, "a")


@pytest.fixture
def config(images, tmp_path):
    """A TOML file of the same settings."""
    path = tmp_path / "settings.toml"
    path.write_text(
        f"""
        [run]
        data_root = "{images}"
        output_dir = "{tmp_path}"
        name = "a"
        [data]
        img_size = 32
        batch_size = 12
        workers = 0
        [model]
        arch = "shufflenet_v2_x0_5"
        [schedule]
        epochs = {EPOCHS}
        max_lr = 0.001
        [runtime]
        amp = false
        """,
        "utf-8",
    )
    return path


@pytest.fixture
def start(tmp_path):
    """`start(*words)` starts a program with a mark in its environment; all it started ends."""
    mark = f"IMGNET_MINI_TEST={tmp_path}"
    started = []

    def run(*words, **variables):
        environment = os.environ | {"IMGNET_MINI_TEST": f"{tmp_path}"} | variables
        with (tmp_path / "terminal.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [*map(str, words)],
                    cwd=tmp_path,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
    for pid, _ in marked_processes(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def marked_processes(mark):
    """Return (id, variables) of the processes with a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            variables = path.read_bytes().split(b"\0")
            if mark.encode() in variables:
                found.append((int(path.parent.name), variables))
    return found


def kill_a_process(tmp_path, command, variable="PATH="):
    """Kill the last process with these words in its command line and variables."""
    for pid, variables in reversed(marked_processes(f"IMGNET_MINI_TEST={tmp_path}")):
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        if command.encode() in line and any(v.startswith(variable.encode()) for v in variables):
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process of {command}")


def wait_for_log(tmp_path, text, is_running):
    log = tmp_path / "out/a/logs.md"
    deadline = time.monotonic() + PATIENCE
    while not (log.exists() and text in log.read_text("utf-8")):
        assert is_running(), terminal(tmp_path)
        assert time.monotonic() < deadline, terminal(tmp_path)
        time.sleep(0.05)


def terminal(tmp_path):
    log = tmp_path / "terminal.log"
    return log.read_text("utf-8") if log.exists() else ""


def torchx(*words):
    """Return what `torchx run` prints for our component."""
    pytest.importorskip("torchx")
    from imgnet_mini import torchx as component  # noqa: PLC0415 - needs torchx

    found = subprocess.run(
        ["torchx", "run", "--workspace=", *words[:-1], f"{component.__file__}:train", *words[-1]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize(
    ("script", "package", "said"),
    [
        (
            "examples/ray_train.py",
            "ray",
            "requires Ray Train, .* Run: pip install 'ray\\[train\\]'",
        ),
        ("examples/submitit_train.py", "submitit", "requires submitit, .* pip install submitit"),
        ("src/imgnet_mini/torchx.py", "torchx", "requires torchx, .* Run: pip install torchx"),
    ],
)
def test_a_package_that_is_not_installed_is_named(script, package, said, monkeypatch):
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(f"{ROOT / script}", run_name="__main__")


def test_a_run_that_torchx_starts_survives_the_death_of_a_rank(images, finished, start, tmp_path):
    pytest.importorskip("torchx")
    from imgnet_mini import torchx as component  # noqa: PLC0415 - needs torchx

    job = start(
        *("torchx", "run", "-s", "local_cwd", "--workspace=", "--wait", "--log"),
        *(f"{component.__file__}:train", "-j", "1x2", "--", *flags(images, tmp_path)),
    )
    wait_for_log(tmp_path, KILL_AFTER, lambda: job.poll() is None)
    kill_a_process(tmp_path, "imgnet_mini", "RANK=0")
    assert job.wait(PATIENCE) == 0, terminal(tmp_path)
    assert differences(outcome(tmp_path, "a"), finished) == []
    assert "Resuming a at step" in terminal(tmp_path)


def test_the_slurm_job_of_torchx_resumes_stops_in_time_and_is_queued_again():
    arguments = ["-j", "2x8", "--gpu", "8", "--stop_after", "715m", "--", "--batch-size", "1024"]
    text = torchx("--dryrun", "-s", "slurm", "-cfg", "partition=gpu,time=12:00:00", arguments)
    script = text.partition("=== SCHEDULER REQUEST ===")[2]
    assert script.count("#SBATCH --job-name=imgnet_mini-") == 2
    assert script.count("--requeue --partition=gpu --time=12:00:00") == 2
    assert script.count("--cpus-per-task=64 --gpus-per-task=8") == 2
    assert "--mem=" not in script
    launch = r"timeout --signal=TERM --kill-after=2m 715m torchrun .*:29500 .*--nproc_per_node 8 "
    assert len(re.findall(launch + ".*train --resume --batch-size 1024", script)) == 2
    assert "PET_MAX_RESTARTS=3" in script
    assert 'scontrol requeue "$SLURM_JOB_ID"' in script


def test_the_kubernetes_job_of_torchx_has_a_port_gpus_and_restarts():
    yaml = pytest.importorskip("yaml")
    arguments = ["-j", "2x8", "--gpu", "8", "--image", "a/b:1", "--", "--data-root", "/my images"]
    text = torchx("--dryrun", "-s", "kubernetes", "-cfg", "queue=default", arguments)
    job = yaml.safe_load(text.partition("=== SCHEDULER REQUEST ===")[2])
    tasks = job["spec"]["tasks"]
    assert (job["spec"]["maxRetry"], len(tasks)) == (3, 2)
    for task in tasks:
        (container,) = task["template"]["spec"]["containers"]
        assert container["image"] == "a/b:1"
        assert container["resources"]["limits"] == {"cpu": "64000m", "nvidia.com/gpu": "8"}
        assert {"containerPort": 29500, "name": "c10d"} in container["ports"]
        assert "train --resume --data-root '/my images'" in container["command"][-1]


SMALL_RAY = """
import runpy, sys, ray
ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script in a cluster that starts few processes and takes little memory."""


@pytest.mark.skipif(not find_spec("ray"), reason="needs ray")  # its import sets variables
def test_a_run_under_ray_survives_the_death_of_a_worker(config, finished, start, tmp_path):
    script = ROOT / "examples/ray_train.py"
    words = (script, config, "--workers", 2, "--storage", tmp_path / "ray")
    variables = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_worker_niceness": "0"}  # else 15
    job = start(sys.executable, "-c", SMALL_RAY, *words, **variables)
    wait_for_log(tmp_path, KILL_AFTER, lambda: job.poll() is None)
    kill_a_process(tmp_path, "ray::RayTrainWorker")
    assert job.wait(PATIENCE) == 0, terminal(tmp_path)
    assert differences(outcome(tmp_path, "a"), finished) == []
    assert "Resuming a at step" in terminal(tmp_path)


def test_a_preempted_job_of_submitit_is_submitted_again(config, finished, tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IMGNET_MINI_TEST", f"{tmp_path}")
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'examples'}", prepend=os.pathsep)
    from submitit_train import Training  # noqa: PLC0415 - needs submitit

    executor = submitit.LocalExecutor(tmp_path / "submitit")
    executor.update_parameters(tasks_per_node=2, timeout_min=20)
    job = executor.submit(Training(f"{config}"))
    try:
        wait_for_log(tmp_path, KILL_AFTER, lambda: not job.done())
        for pid, _ in marked_processes(f"IMGNET_MINI_TEST={tmp_path}"):  # as Slurm does
            if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGUSR2)
        job.results()
    finally:
        job.cancel()
    assert differences(outcome(tmp_path, "a"), finished) == []
    assert "Resuming a at step" in job.paths.stdout.read_text("utf-8")


def test_the_slurm_job_of_submitit_asks_for_gpus_and_a_signal(config, tmp_path):
    pytest.importorskip("submitit")
    path = stand_ins(tmp_path, srun="", sbatch='cp "$1" sent.sh; echo Submitted batch job 17')
    words = ("--nodes", "2", "--gpus", "8", "--minutes", "720", "--partition", "gpu")
    done = subprocess.run(
        [sys.executable, ROOT / "examples/submitit_train.py", config, *words],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("job 17, log "), done.stderr
    script = (tmp_path / "sent.sh").read_text("utf-8").splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in script}
    assert {"nodes=2", "gpus-per-node=8", "ntasks-per-node=8", "cpus-per-task=8"} <= asked
    assert {"time=720", "signal=USR2@120", "partition=gpu", "open-mode=append"} <= asked


SLURM = {
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> requeued; fi',
    "srun": 'exec "$@"',
}
"""Stand-ins for the two commands of Slurm that the job script calls."""


def stand_ins(tmp_path, **bodies):
    """Write commands in bash; return a PATH on which they are found first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n", "utf-8")
        (folder / name).chmod(0o755)
    return os.pathsep.join([f"{folder}", f"{Path(sys.executable).parent}", os.environ["PATH"]])


def test_the_slurm_script_of_the_documentation_saves_and_is_queued_again(
    images, finished, start, tmp_path
):
    page = (ROOT / "docs/distributed.md").read_text("utf-8")
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    script = script.replace("source venv/bin/activate\n", "")
    script = script.replace("--nproc-per-node 8", "--nproc-per-node 2")
    own = "--batch-size 1024 --name imagenet --data-root /data/imagenet"
    assert own in script
    script = script.replace(own, " ".join(map(str, flags(images, tmp_path))))
    (tmp_path / "job.sh").write_text(script, "utf-8")
    variables = {
        "PATH": stand_ins(tmp_path, **SLURM),
        "SLURM_JOB_ID": "17",
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "node",
    }
    job = start("bash", "job.sh", **variables)
    wait_for_log(tmp_path, KILL_AFTER, lambda: job.poll() is None)
    job.send_signal(signal.SIGTERM)  # what --signal=B:TERM@60 does
    job.wait(PATIENCE)
    assert (tmp_path / "requeued").read_text("utf-8") == "requeue 17\n"
    assert start("bash", "job.sh", **variables).wait(PATIENCE) == 0
    assert (tmp_path / "requeued").read_text("utf-8") == "requeue 17\n"
    assert differences(outcome(tmp_path, "a"), finished) == []


def test_the_kubernetes_manifest_fits_the_published_schema():
    yaml = pytest.importorskip("yaml")
    models = pytest.importorskip("kubeflow_trainer_api.models")
    manifest = yaml.safe_load((ROOT / "examples/trainjob.yaml").read_text("utf-8"))
    job = models.TrainerV1alpha1TrainJob.from_dict(manifest)
    assert job.to_dict() == manifest  # the models drop what they do not know


def test_the_command_of_the_kubernetes_manifest_is_one_of_ours():
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((ROOT / "examples/trainjob.yaml").read_text("utf-8"))
    trainer = manifest["spec"]["trainer"]
    assert trainer["command"] == ["torchrun"]
    assert trainer["args"][:4] == ["-m", "imgnet_mini", "train", "--resume"]
    with pytest.raises(SystemExit) as end:
        cli.main([*trainer["args"][2:], "--help"])
    assert end.value.code == 0
