"""A real Slurm on this machine: a CPU and a GPU partition, accounting, and no network but its own loopback.

It has one node, and a second one whose daemon is started by the test that needs it.

Everything (munge, MariaDB, slurmdbd, slurmctld, slurmd and their clients) lives in one folder and in namespaces of its
own, so that nothing of the machine's own set-up is touched, and a job that wants the internet fails. The folder is
mounted on /etc/slurm there, and only there: Snakemake does not pass SLURM_CONF on to job steps.
"""

import os
import platform
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ["munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct", "ip"]
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

SLURM_CONF = """\
ClusterName=one_machine
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
# A job over its memory is killed, as control groups would: polled, since a test may not change those of the machine.
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
KillWait=5
MpiDefault=none
ReturnToService=2
# What the machine has, whatever jobs ask for: requests are sized for real data.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=200000 Gres=gpu:2
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port=6821 CPUs={cpus} RealMemory=200000 Gres=gpu:2 State=DOWN
PartitionName=cpu Nodes=node Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes=node,second MaxTime=INFINITE
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageUser=root
StoragePass=slurm
StorageLoc=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def why_not() -> str | None:
    """Why Slurm cannot be started on this machine; None where it can."""
    if platform.system() != "Linux":
        return "Slurm is started on Linux only"
    if os.geteuid() != 0:
        return "starting Slurm takes the rights of root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (CONTRIBUTING.md names the packages)"
    done = subprocess.run(["unshare", "--net", "--mount", "true"], stderr=subprocess.PIPE, text=True, check=False)
    return f"no namespaces: {done.stderr.strip()}" if done.returncode else None


@dataclass(frozen=True)
class Cluster:
    """A running Slurm; ``run`` is its login node."""

    folder: Path
    holder: int  # the process whose namespaces they are
    stack: ExitStack  # stops the servers
    servers: dict[str, tuple[tuple[str, ...], subprocess.Popen]] = field(default_factory=dict)  # command and process

    def serve(self, *command: str) -> None:
        """Start a server that stays in the foreground; it is stopped with the cluster."""
        output = self.stack.enter_context((self.folder / f"{command[0]}.out").open("a"))
        process = self.stack.enter_context(stopped(self.start(*command, stdout=output)))
        self.servers[command[0]] = command, process

    def crash(self, name: str) -> tuple[str, ...]:
        """Kill a server; return the command that starts it again (:meth:`serve`)."""
        command, process = self.servers[name]
        process.kill()
        process.wait()
        return command

    def command(self, *command: object, cwd: str | Path = "/") -> list[str]:
        """``command`` inside the cluster."""
        return ["nsenter", f"--target={self.holder}", "--net", "--mount", f"--wd={cwd}", *map(str, command)]

    def start(self, *command: object, cwd: str | Path = "/", **options) -> subprocess.Popen:
        """Start a command, with output as one text."""
        environment = {**os.environ, **options.pop("env", {})}
        environment["PATH"] += ":/usr/sbin:/sbin"
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True, **options}
        return subprocess.Popen(self.command(*command, cwd=cwd), text=True, env=environment, **options)

    def run(self, *command: object, check: bool = False, **options) -> subprocess.CompletedProcess:
        """Run a command to the end."""
        process = self.start(*command, **options)
        output, _ = process.communicate()
        if check and process.returncode:
            raise RuntimeError(f"{command}: exit status {process.returncode}\n{output}")
        return subprocess.CompletedProcess(command, process.returncode, output)

    def jobs(self) -> list[dict[str, str]]:
        """Every job that the accounting knows, in the order of submission."""
        columns = [
            "JobIDRaw",
            "State",
            "Partition",
            "ReqTRES",
            "AllocTRES",
            "Comment",
            "Start",
            "Timelimit",
            "AllocNodes",
        ]
        options = ["-X", "--parsable2", "--noheader", "--duplicates", "--starttime=now-1days"]
        listed = self.run("sacct", *options, f"--format={','.join(columns)}", check=True).stdout
        jobs = [dict(zip(columns, line.split("|"), strict=True)) for line in listed.splitlines()]
        # The accounting learns of the comment when a job ends.
        waiting = self.run("squeue", "--noheader", "--format=%A|%k", check=True).stdout
        comments = dict(line.split("|", 1) for line in waiting.splitlines())
        for job in jobs:
            job["Comment"] = job["Comment"] or comments.get(job["JobIDRaw"], "")
        return sorted(jobs, key=lambda job: int(job["JobIDRaw"]))


@contextmanager
def one_machine(folder: Path) -> Iterator[Cluster]:
    """Start Slurm in ``folder``, and stop it at the end."""
    with ExitStack() as stack:
        configuration = folder / "etc"
        configuration.mkdir()
        hold = f"mount --bind '{configuration}' /etc/slurm && touch '{folder}/mounted' && exec sleep infinity"
        holder = stack.enter_context(stopped(subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", hold])))
        cluster = Cluster(folder, holder.pid, stack)
        wait_for((folder / "mounted").exists, "the namespaces")
        cluster.run("ip", "link", "set", "lo", "up", check=True)
        # An address for documentation, on loopback too: slurmdbd does not start where there is none but 127.0.0.1.
        cluster.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo", check=True)
        start_munge(cluster)
        start_database(cluster)
        values = {"folder": folder, "host": socket.gethostname().split(".")[0], "cpus": os.cpu_count()}
        for name, text in (("slurm.conf", SLURM_CONF), ("slurmdbd.conf", SLURMDBD_CONF)):
            (configuration / name).write_text(text.format(**values))
            (configuration / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)
        # GPUs that only the scheduler sees.
        (configuration / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        for name in ("slurmctld", "slurmd"):
            (folder / name).mkdir()

        cluster.serve("slurmdbd", "-D")
        wait_for_answer(cluster, "sacctmgr", "-i", "add", "cluster", "one_machine")
        cluster.run("sacctmgr", "-i", "add", "account", "bench", check=True)
        cluster.run("sacctmgr", "-i", "add", "user", "root", "account=bench", check=True)
        cluster.serve("slurmctld", "-D")
        wait_for_answer(cluster, "scontrol", "ping")
        cluster.serve("slurmd", "-D", "-N", "node")
        wait_for(
            lambda: "idle" in cluster.run("sinfo", "-h", "-o", "%t").stdout, "slurmd", folder / "slurmd" / "node.log"
        )
        yield cluster
        cluster.run("scancel", "--user=root")
        wait_for(lambda: not cluster.run("squeue", "-h").stdout.strip(), "the end of all jobs")


def start_munge(cluster: Cluster) -> None:
    folder = cluster.folder / "munge"
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    options = [f"--key-file={folder}/key", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
    options += [f"--log-file={folder}/log", f"--seed-file={folder}/seed", "--foreground", "--force"]
    cluster.serve("munged", *options)
    wait_for((folder / "socket").exists, "munged", folder / "log")


def start_database(cluster: Cluster) -> None:
    folder = cluster.folder / "database"
    folder.mkdir()
    user = pwd.getpwnam("mysql")
    os.chown(folder, user.pw_uid, user.pw_gid)
    options = ["--no-defaults", f"--datadir={folder}"]
    cluster.run("mariadb-install-db", *options, "--user=mysql", "--skip-test-db", check=True)
    (folder / "start.sql").write_text(
        "CREATE OR REPLACE USER 'root'@'127.0.0.1' IDENTIFIED BY 'slurm';\nGRANT ALL ON *.* TO 'root'@'127.0.0.1';\n"
    )
    options += [f"--socket={folder}/socket", "--bind-address=127.0.0.1", f"--init-file={folder}/start.sql"]
    options += [f"--pid-file={folder}/pid", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"]
    cluster.serve("mariadbd", *options, "--user=mysql")
    wait_for((folder / "socket").exists, "mariadbd", cluster.folder / "mariadbd.out")


@contextmanager
def stopped(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Stop a process that this module started."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_answer(cluster: Cluster, *command: str) -> None:
    """Repeat ``command`` until its server is there to answer it."""
    said = []

    def answered():
        done = cluster.run(*command)
        said[:] = [f"exit status {done.returncode}: {done.stdout}"]
        return done.returncode == 0

    try:
        wait_for(answered, " ".join(command))
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{said[0]}") from None


def wait_for(condition, what: str, log: Path | None = None, seconds: float = 30) -> None:
    """Wait until ``condition()`` is true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            said = log.read_text()[-3000:] if log and log.exists() else ""
            raise TimeoutError(f"{what} did not come within {seconds} s\n{said}")
        time.sleep(0.2)
