"""The examples of docs/clusters.md, started as they stand there, with their variables simulated."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dalle_cli.runtime.processes.launcher import free_port
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.checkpoint import check_checkpoint, checkpoints

PAGE = Path(__file__).parents[1] / "docs" / "clusters.md"
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LIMIT = 600  # seconds after which something hangs
STEPS = 8  # of transformer/tiny

# starts the two tasks of a step, as if on two machines; its options are the real one's business
SRUN = """
import os, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    del words[0]
step = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "localhost,machine2",
    "SLURM_LOCALID": "0",
}
tasks = [
    subprocess.Popen(words, env=os.environ | step | {"SLURM_PROCID": rank}) for rank in ("0", "1")
]
sys.exit(max(task.wait() for task in tasks))
"""

Start = Callable[..., None]


def example(beginning: str) -> str:
    """Return the block of the page that begins so."""
    [found] = [
        block for block in BLOCK.findall(PAGE.read_text("utf-8")) if block.startswith(beginning)
    ]
    return found


@pytest.fixture
def start(pairs: Path, dvae_run: Path, tmp_path: Path) -> Start:
    """Run a script of the page in one shell for each machine, and check the run that it trains."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (tmp_path / "srun.py").write_text(SRUN)
    for name, words in {
        "dalle": "-m dalle_cli",
        "torchrun": "-m torch.distributed.run",
        "srun": f"'{tmp_path}/srun.py'",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\nexec '{sys.executable}' {words} \"$@\"\n")
        (commands / name).chmod(0o755)

    run, port = tmp_path / "run", str(free_port())
    left_open = {"RECIPE": "transformer/tiny", "DATA": str(pairs), "DVAE": str(dvae_run)}
    left_open |= {"RUN": str(run), "PORT": port, "MASTER_PORT": port}
    left_open["PATH"] = f"{commands}{os.pathsep}{os.environ['PATH']}"

    def start(script: str, machines: list[dict[str, str]]) -> None:
        shells = [
            subprocess.Popen(
                ["bash", "-c", script],
                env=os.environ | machine | left_open,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for machine in machines
        ]
        try:
            outputs = [shell.communicate(timeout=LIMIT) for shell in shells]
        finally:
            for shell in shells:
                shell.kill()
        told = "\n".join(err for _, err in outputs)
        assert [shell.returncode for shell in shells] == [0] * len(machines), told
        assert [out for out, _ in outputs] == [f"{run}\n", ""][: len(machines)]
        assert "micro-batches x 2 processes" in told
        assert checkpoints(RunDir(run))[-1][0] == STEPS
        for _, path in checkpoints(RunDir(run)):
            check_checkpoint(path)

    return start


@pytest.mark.distributed
def test_example_for_slurm_trains(start: Start) -> None:
    start(example("#!/bin/bash\n#SBATCH"), [{}])


@pytest.mark.distributed
def test_example_for_skypilot_trains(start: Start) -> None:
    task = yaml.safe_load(example("# sky launch"))
    defaults = {name: str(value) for name, value in task["envs"].items()}
    skypilot = {
        "SKYPILOT_NUM_NODES": str(task["num_nodes"]),
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "1",
    }
    start(task["run"], [defaults | skypilot | {"SKYPILOT_NODE_RANK": rank} for rank in "01"])


@pytest.mark.distributed
def test_example_for_kubernetes_trains(start: Start) -> None:
    service, job = yaml.safe_load_all(example("# kubectl apply"))
    pods = job["spec"]["template"]["spec"]
    [container] = pods["containers"]
    assert container["command"] == ["bash", "-c"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    assert given["MACHINES"] == str(job["spec"]["completions"]) == str(job["spec"]["parallelism"])
    assert given["FIRST"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pods["subdomain"] == service["metadata"]["name"]

    given |= {"FIRST": "127.0.0.1", "GPUS": "1"}
    [script] = container["args"]
    start(script, [given | {"JOB_COMPLETION_INDEX": index} for index in "01"])


@pytest.mark.distributed
def test_command_of_a_pytorchjob_trains(start: Start) -> None:
    operator = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    start(example("dalle train-transformer"), [operator | {"RANK": rank} for rank in "01"])


@pytest.mark.parametrize("beginning", ["# sky launch", "# kubectl apply"])
def test_examples_set_every_variable_that_their_schedulers_do_not(beginning: str) -> None:
    text = example(beginning)
    used = set(re.findall(r"\$(\w+)", text))
    of_scheduler = {name for name in used if name.startswith("SKYPILOT_")} | {
        "JOB_COMPLETION_INDEX"
    }
    documents = list(yaml.safe_load_all(text))
    if beginning == "# sky launch":
        defined = set(documents[0]["envs"])
    else:
        [container] = documents[1]["spec"]["template"]["spec"]["containers"]
        defined = {variable["name"] for variable in container["env"]}
    assert used - of_scheduler == defined
