"""A job array of a real Slurm gives the results of one run: one part per task, and `jaxseg merge` at the end."""

import os
import subprocess
import sys

import pytest
from parity_kit import KIT
from run_trees import compared, phantoms, saved_model
from slurm_cluster import PROGRAMS, slurm

COUNT, TASKS = 12, 3
SCRIPT = """#!/bin/bash
#SBATCH --array=1-{tasks}
#SBATCH --cpus-per-task=1
#SBATCH --output={folder}/%a.log
{command} segment -i {folder}/xrays -o {folder}/masks --weights {model} -ot json
"""


@pytest.mark.full
@pytest.mark.system(*PROGRAMS)
def test_a_job_array_gives_the_results_of_one_run(plain, tmp_path):
    source, model = phantoms(tmp_path / "xrays", COUNT), saved_model(tmp_path / "model")
    program = [sys.executable, str(KIT / "plain_network.py")]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*arguments, **environment) -> subprocess.CompletedProcess:
        command = [*program, *map(str, arguments)]
        return subprocess.run(command, env=variables | environment, capture_output=True, text=True, check=False)

    single = run("segment", "-i", source, "-o", tmp_path / "single", "--weights", model, "-ot", "json")
    assert single.returncode == 0, single.stderr
    script = tmp_path / "array.sh"
    script.write_text(SCRIPT.format(tasks=TASKS, folder=tmp_path, model=model, command=" ".join(program)))
    with slurm(cpus=TASKS) as environment:
        array = subprocess.run(
            ["sbatch", "--wait", script], env=variables | environment, capture_output=True, text=True, timeout=300
        )
    logs = [(tmp_path / f"{task}.log").read_text() for task in range(1, TASKS + 1)]
    assert array.returncode == 0, [array.stderr, *logs]
    done = [int(log.split(" done, ")[0].split()[-1]) for log in logs]
    assert sum(done) == COUNT
    assert max(done) < COUNT
    assert not (tmp_path / "masks/summary.json").exists()
    merged = run("merge", tmp_path / "masks")
    assert merged.returncode == 0, merged.stderr
    assert compared(tmp_path / "masks") == compared(tmp_path / "single")
