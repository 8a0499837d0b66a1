"""A Slurm cluster of virtual nodes on this machine: munged, slurmctld and a slurmd for each node.

It lives in namespaces of its own (processes, mounts, network): nothing outside it is seen or disturbed, and when its
first process ends the kernel ends all others, whatever happened. That needs root, Debian's packages (munge, slurmctld,
slurmd, slurm-client) and a machine that allows namespaces; elsewhere a test is skipped.
"""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

INSIDE = "LOCKSTEP_TEST_CLUSTER"  # set for the program that runs in the namespaces
PROGRAMS = ("unshare", "ip", "munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
PR_SET_PDEATHSIG = 1
NODES = 4
READY = 60  # seconds; generous

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}({address})
SlurmUser=root
SlurmdUser=root
SlurmctldPort=6817
AuthType=auth/munge
AuthInfo=socket={dir}/munge/socket,cred_expire={cred_expire}
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/%n/spool
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/%n/slurmd.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/%n/slurmd.log
TmpFS={dir}/%n/tmp
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={kill_wait}
SlurmdTimeout={slurmd_timeout}
ReturnToService=2
MpiDefault=none
GresTypes=gpu
{more}
NodeName=node[1-{nodes}] NodeAddr={address} Port=[27001-2700{nodes}] CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES GraceTime={grace} PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""

# What the defaults are here and on most sites; a test may change each.
DEFAULTS = {"cred_expire": 5, "kill_wait": 5, "slurmd_timeout": 20, "grace": 10, "more": ""}


def missing():
    """Why there can be no cluster here, or None."""
    if os.geteuid() != 0:
        return "only root may start the cluster's services"
    programs = [name for name in PROGRAMS if not shutil.which(name)]
    if programs:
        return f"not installed: {' '.join(programs)} (packages munge slurmctld slurmd slurm-client iproute2 util-linux)"
    tried = subprocess.run(["unshare", *NAMESPACES, *NETWORK[1].split()], capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--net")
# Slurm and Open MPI look for an address that is not the loopback interface's.
ADDRESS = "10.77.0.1"
NETWORK = ("ip link set lo up", "ip link add cluster0 type veth peer name cluster1", "ip link set cluster1 up",
           "ip link set cluster0 up", f"ip address add {ADDRESS}/24 dev cluster0")


def enter():
    """Runs the calling program again inside the namespaces, or ends it as skipped. Returns inside."""
    if INSIDE in os.environ:
        for command in NETWORK + ("mount -t tmpfs tmpfs /dev/shm",):
            subprocess.run(command.split(), check=True)
        return
    reason = missing()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    os.environ[INSIDE] = "yes"
    # Ends with whoever started it, even where that was killed; what follows ends with its first process.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execvp("unshare", ["unshare", *NAMESPACES, sys.executable, "-B", *sys.argv])


def wait_until(what, condition, seconds=READY, failed=lambda: None):
    """Waits for a condition and returns its value; `failed` may return a reason to give up at once."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        reason = failed()
        if reason or time.monotonic() > end:
            raise AssertionError(f"{what}: {reason or f'not within {seconds} s'}")
        time.sleep(0.1)


class Cluster:
    """The services; `directory` is theirs. Options: see DEFAULTS."""

    def __init__(self, directory, **options):
        self.dir = pathlib.Path(directory)
        self.services = {}
        self.environment = {**os.environ, "SLURM_CONF": str(self.dir / "slurm.conf")}
        self._write({**DEFAULTS, **options})
        try:
            self._start_munge()
            self.start("slurmctld", "slurmctld", "-D")
            for node in range(1, NODES + 1):
                self.start_node(f"node{node}")
            wait_until("idle nodes", lambda: self.command("sinfo", "-h", "-o", "%T %D") == f"idle {NODES}")
        except BaseException:
            self.stop()
            raise

    def _write(self, options):
        for folder in ("munge", "state", *(f"node{n + 1}/{part}" for n in range(NODES) for part in ("spool", "tmp"))):
            (self.dir / folder).mkdir(parents=True)
        (self.dir / "munge").chmod(0o755)
        (self.dir / "slurm.conf").write_text(
            CONFIGURATION.format(dir=self.dir, host=socket.gethostname(), nodes=NODES, address=ADDRESS, **options), encoding="utf-8")
        (self.dir / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
        # Imitated GPUs: any device file will do.
        (self.dir / "gres.conf").write_text(
            f"NodeName=node[1-{NODES}] Name=gpu File=/dev/tty[10-11]\n", encoding="utf-8")

    def _start_munge(self):
        key = self.dir / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {name: self.dir / "munge" / name for name in ("socket", "pid", "log", "seed")}
        self.start("munged", "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={files['socket']}",
                   f"--pid-file={files['pid']}", f"--log-file={files['log']}", f"--seed-file={files['seed']}")
        wait_until("munge's socket", files["socket"].exists)

    def start(self, name, *command):
        """Starts a service in the foreground of a session of its own."""
        with open(self.dir / f"{name}.out", "ab") as out:
            self.services[name] = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                                                   stderr=out, start_new_session=True)

    def start_node(self, node):
        """Switches a node on: a host name, processes and shared memory of its own."""
        self.start(node, "unshare", "--uts", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child", "sh", "-c",
                   f"hostname {node} && mount -t tmpfs tmpfs /dev/shm && slurmd -D -N {node}; exit")

    def kill_node(self, node):
        """Switches a node off: its first process is killed, and with it everything that runs there."""
        self.services[node].kill()
        self.services[node].wait()

    def stop(self):
        """Ends the services, and with the nodes their jobs; safe to call twice."""
        for process in reversed(self.services.values()):
            process.kill()
            process.wait()

    def command(self, *arguments, check=True, **options):
        """Runs one of Slurm's commands and returns what it printed."""
        try:
            done = subprocess.run([str(a) for a in arguments], env=self.environment, capture_output=True, text=True,
                                  timeout=READY, check=False, **options)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{arguments}: no answer within {READY} s") from error
        if check and done.returncode:
            raise AssertionError(f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def job(self, job):
        """A job's record as scontrol shows it, by field; {} when Slurm does not know it."""
        text = self.command("scontrol", "-o", "show", "job", job, check=False)
        return dict(word.split("=", 1) for word in text.splitlines()[0].split() if "=" in word) if text else {}


def processes():
    """All processes of the namespace."""
    return [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()]


def environ(pid):
    """A process's environment as bytes; empty when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def arguments(pid):
    """A process's command line; empty when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def program(pid):
    """The path of a process's program; empty when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
