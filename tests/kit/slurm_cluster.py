"""A Slurm cluster of one node on the loopback interface, whose files are in a temporary folder. It needs root."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
_STARTS_S = 60
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm(*, cpus: int) -> Iterator[dict[str, str]]:
    """Starts the cluster, and yields the environment variables with which its commands find it.

    Args:
      cpus: number of processors that the node has for Slurm; tasks of one processor run at the same time up to it.
    """
    if os.geteuid():
        pytest.skip("a Slurm cluster for a test needs root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a short path, because sockets need one
    folder.chmod(0o755)  # every user may connect to munge's socket
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    text = _CONFIGURATION.format(folder=folder, host=host, cpus=cpus, ports=_free_ports(2))
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(256))
    key.chmod(0o400)
    variables = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = [f"--{name}={folder}/munge.{suffix}" for name, suffix in _MUNGE.items()]
    commands = [["munged", "--foreground", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]]
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for command in commands:
            log = stack.enter_context((folder / f"{command[0]}.out").open("wb"))
            process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(_end, process)
            if command[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder)
        _wait(lambda: "idle" in _said(["sinfo", "--noheader", "--format=%T"], variables), folder)
        yield variables


_MUNGE = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def _said(command: list[str], variables: dict[str, str]) -> str:
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False).stdout


def _wait(ready, folder: Path) -> None:
    end = time.monotonic() + _STARTS_S
    while not ready():
        if time.monotonic() > end:
            logs = [f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.[lo][ou]*")]
            raise AssertionError("Slurm did not start:\n" + "\n".join(logs))
        time.sleep(0.2)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
