"""A real Slurm on this machine for tests: one slurmctld, several slurmd, munge; no systemd, nothing outside one folder.

Needs root and Debian's packages (slurmctld, slurmd, slurm-client, munge); installs them where apt-get can. Every daemon
is started in the foreground as a child and stopped by its process, so that nothing outlives the tests. `SLURM_CONF`
leads the client commands and jobs here: a Slurm that the machine has of its own is not touched.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import slurm_accounting

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}

# What a cluster's own would be, but for: linuxproc (no cgroups needed), short waits (cred_expire is how long Slurm
# makes a requeued job wait), and more CPUs and memory than the machine has, as jobs of these tests are tiny.
SLURM_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout={slurmd_timeout}
SlurmctldTimeout=10
KillWait=30
MinJobAge=3600
GresTypes=gpu
{accounting}
JobAcctGatherType=jobacct_gather/none
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs=16 RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=spare Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
"""  # noqa: E501
WITHOUT_ACCOUNTS = "AccountingStorageType=accounting_storage/none"

# What names the cluster in a job's environment: Slurm's variable, and the profile's where a job has unset that.
CONFIGURATIONS = ("SLURM_CONF", "TST_TITAN_SLURM_CONF")


class SlurmUnavailable(Exception):
    """Why this machine cannot run a Slurm of its own."""


@dataclass
class SlurmCluster:
    """A running cluster: `environment` is what a process needs to be its user."""

    root: Path
    nodes: int
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.root / "slurm.conf")}

    def run(self, *command: str, check: bool = True) -> str:
        """Output of a Slurm command."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout.strip()

    def jobs(self, states: str = "all") -> list[dict[str, str]]:
        """Every job that Slurm remembers, oldest first: id, state, restarts, comment, nodes, reason."""
        fields = {"id": "JobID", "state": "State", "restarts": "RestartCnt", "comment": "Comment", "nodes": "NodeList",
                  "reason": "Reason", "name": "Name", "partition": "Partition"}  # fmt: skip
        wanted = ",".join(f"{name}:200" for name in fields.values())
        lines = self.run("squeue", "--noheader", f"--states={states}", "--sort=i", f"--Format={wanted}").splitlines()
        cut = [[line[i : i + 200].strip() for i in range(0, len(fields) * 200, 200)] for line in lines]
        return [dict(zip(fields, values, strict=True)) for values in cut]

    def start(self, name: str) -> None:
        """Start `slurmctld`, a node's `slurmd` (by the node's name), or one of those that keep accounts."""
        commands = {"slurmctld": ["slurmctld", "-D"], **slurm_accounting.commands(self.root)}
        self._daemon(name, commands.get(name, ["slurmd", "-D", "-N", name]))

    def kill(self, name: str) -> None:
        """End a daemon as a crash does."""
        self._end(name, signal.SIGKILL)

    def kill_node(self, name: str) -> None:
        """End a node as a power cut does: its slurmd and all processes of its jobs at once, none of which gets to
        tell."""
        jobs = self.processes_of_jobs(name)
        keepers = {parent for pid in jobs if _command(parent := _parent(pid)) == "slurmstepd"}
        self.kill(name)
        while jobs:
            # Slurm's own processes first: they would tell the controller how the others ended.
            for pid in [*keepers, *jobs]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            keepers, jobs = set(), self.processes_of_jobs(name)

    def processes_of_jobs(self, node: str) -> set[int]:
        """Everything that lives below a job of this cluster on `node`: its environment names both."""
        ours = {f"{variable}={self.root}/slurm.conf".encode() for variable in CONFIGURATIONS}
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = set((process / "environ").read_bytes().split(b"\0"))
                if f"SLURMD_NODENAME={node}".encode() in environment and environment & ours:
                    found.add(int(process.name))
        return found

    def wait_until_idle(self, seconds: float = 300) -> None:
        """Wait until every node is up and no job is left."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            states = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split()
            if states == ["idle"] * self.nodes and not self.run("squeue", "-h", check=False):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the cluster is not idle: {self.run('sinfo', '-N', '-l', check=False)}\n{self.logs()}")

    def wait_for(self, name: str, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Wait until a daemon that was started serves."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """The last lines of every daemon."""
        return "\n".join(
            f"--- {log.name}\n" + "".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:])
            for log in sorted(self.root.glob("*.log"))
        )

    def _daemon(self, name: str, command: list[str]) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, name: str, number: int) -> None:
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def stop(self) -> None:
        """End all jobs, then all daemons, controller first."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "--state=RUNNING,PENDING,SUSPENDED", "--user=root", check=False)
            deadline = time.monotonic() + 40
            while time.monotonic() < deadline and self.run("squeue", "-h", check=False):
                time.sleep(0.2)
        last = ("slurmdbd", "mariadbd", "munged")
        first = ("slurmctld", *(name for name in self.daemons if name not in last))
        for name in dict.fromkeys([*first, *last]):
            if name in self.daemons:
                self._end(name, signal.SIGTERM)
        # A job outlives its slurmd.
        for node in range(1, self.nodes + 1):
            for pid in self.processes_of_jobs(f"n{node}"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def require_slurm(packages: Mapping[str, str]) -> None:
    """Raise `SlurmUnavailable` unless the programs are here or can be installed; `packages`: Debian's, by program."""
    if os.geteuid() != 0:
        raise SlurmUnavailable("Slurm's daemons need root")
    missing = sorted({package for program, package in packages.items() if shutil.which(program) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise SlurmUnavailable(f"not installed: {', '.join(missing)} (and this is no Debian)")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SlurmUnavailable(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")


@contextmanager
def slurm_cluster(
    root: Path, *, nodes: int = 3, gpus: int = 8, slurmd_timeout: int = 10, accounting: bool = False
) -> Iterator[SlurmCluster]:
    """Bring a cluster up under `root`, and down again; with `accounting`, one that keeps accounts and enforces their
    limits."""
    require_slurm(PACKAGES | (slurm_accounting.PACKAGES if accounting else {}))
    first_port = _free_ports(nodes + 2)
    root.chmod(0o755)
    (root / "state").mkdir()
    for node in range(1, nodes + 1):
        (root / f"spool-n{node}").mkdir()
    # Fake GPUs are clones of /dev/null; a bare Count= would register none.
    for index in range(gpus):
        os.mknod(root / f"gpu{index}", 0o666 | 0o020000, os.makedev(1, 3))
    (root / "gres.conf").write_text(f"NodeName=n[1-{nodes}] Name=gpu File={root}/gpu[0-{gpus - 1}]\n")
    (root / "slurm.conf").write_text(
        SLURM_CONF.format(
            root=root, host=socket.gethostname().split(".")[0], port=first_port + nodes, nodes=nodes, gpus=gpus,
            first_port=first_port, last_port=first_port + nodes - 1, slurmd_timeout=slurmd_timeout,
            accounting=slurm_accounting.SLURM_CONF.format(root=root, port=first_port + nodes + 1) if accounting else WITHOUT_ACCOUNTS,  # noqa: E501
        )
    )  # fmt: skip
    key = root / "munge.key"
    key.touch(mode=0o400)
    key.write_bytes(os.urandom(1024))
    cluster = SlurmCluster(root, nodes)
    files = [
        f"--{name}={root}/munge.{end}"
        for name, end in (("socket", "socket"), ("key-file", "key"), ("seed-file", "seed"))
    ]
    try:
        # --force: the folder may belong to another user than munge would have it.
        cluster._daemon("munged", ["munged", "--foreground", "--force", f"--pid-file={root}/munged.pid", *files])
        cluster.wait_for("munged", (root / "munge.socket").exists)
        if accounting:
            slurm_accounting.start_accounting(cluster, port=first_port + nodes + 1)
        cluster.start("slurmctld")
        for node in range(1, nodes + 1):
            cluster.start(f"n{node}")
        cluster.wait_until_idle()
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def cluster_or_skip(root: Path, **options: Any) -> Iterator[SlurmCluster]:
    """`slurm_cluster` for fixtures: where it cannot run, the tests are skipped and the reason is said."""
    try:
        with slurm_cluster(root, **options) as running:
            yield running
    except SlurmUnavailable as reason:
        pytest.skip(f"no Slurm here: {reason}")


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _free_ports(number: int) -> int:
    """The first of `number` ports in a row that nobody listens on."""
    for first in range(21000 + os.getpid() % 500 * 20, 32000, number):
        try:
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise SlurmUnavailable("no free ports")
