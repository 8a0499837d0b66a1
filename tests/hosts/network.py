"""Hosts joined by a switch, on one machine: what tests and benchmarks of several hosts run on.

A host is a network namespace with a link of its own into a bridge, and a host name for whatever mpirun starts in it,
through a stand-in for ssh. Links can be given a rate, and a delay where the kernel has netem. What does not exist:
processors of their own.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess

SUBNET = "10.78.0"
AGENT = """\
#!/bin/sh
# HOST COMMAND...: what mpirun does with ssh
host=$1
shift
exec ip netns exec "{name}-$host" unshare --uts sh -c 'hostname "$0"; exec sh -c "$1"' "$host" "$*"
"""


def ip(*arguments):
    """Runs ip."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def missing():
    """Why there can be no such hosts here, or None."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    for tool in ("ip", "tc", "unshare", "mpirun"):
        if not shutil.which(tool):
            return f"needs {tool}"
    probe = f"lsh{os.getpid()}p"
    commands = (["ip", "netns", "add", probe], ["ip", "-n", probe, "link", "add", "br0", "type", "bridge"],
                ["ip", "netns", "exec", probe, "unshare", "--uts", "true"])
    made = all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return None if made else "needs network and UTS namespaces"


def can_delay():
    """Whether the kernel has netem."""
    probe = f"lsh{os.getpid()}p"
    subprocess.run(["ip", "netns", "add", probe], check=True)
    done = subprocess.run(["ip", "netns", "exec", probe, "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"],
                          capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return done.returncode == 0


def sweep():
    """Takes away the networks of programs that were killed."""
    listed = subprocess.run(["ip", "netns", "list"], check=False, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        owner = re.match(r"lsh(\d+)(-|p|\b)", line)
        if owner and not pathlib.Path("/proc", owner[1]).exists():
            destroy(line.split()[0])


def destroy(space):
    """Ends a namespace and all that runs in it."""
    for pid in pids(space):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def pids(space):
    """Processes of a namespace."""
    found = subprocess.run(["ip", "netns", "pids", space], check=False, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


class Network:
    """So many hosts, named node1 and on. folder: for a small file; rate: of each link and direction, as tc has it;
    delay: of what a host sends, likewise."""

    def __init__(self, folder, hosts, rate=None, delay=None):
        sweep()
        self.name = f"lsh{os.getpid()}"
        self.hosts = [f"node{i + 1}" for i in range(hosts)]
        self.agent = pathlib.Path(folder) / "agent"
        self.agent.write_text(AGENT.format(name=self.name), encoding="ascii")
        self.agent.chmod(0o755)
        try:
            self.build(rate, delay)
        except subprocess.CalledProcessError as error:
            self.close()
            raise RuntimeError(f"{' '.join(error.cmd)}: {error.stderr}") from error

    def build(self, rate, delay):
        """Makes bridge and links."""
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "link", "add", "br0", "type", "bridge")
        ip("-n", self.name, "link", "set", "br0", "up")
        ip("-n", self.name, "address", "add", f"{SUBNET}.254/24", "dev", "br0")
        for i, host in enumerate(self.hosts):
            space = f"{self.name}-{host}"
            ip("netns", "add", space)
            ip("-n", self.name, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("-n", self.name, "link", "set", host, "master", "br0", "up")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "address", "add", f"{SUBNET}.{i + 1}/24", "dev", "eth0")
            self.shape(space, "eth0", rate, delay)
            self.shape(self.name, host, rate, None)

    def shape(self, space, link, rate, delay):
        """Limits what a link sends."""
        parent = ["root"]
        if delay:
            self.tc(space, link, *parent, "handle", "1:", "netem", "delay", delay, "limit", "100000")
            parent = ["parent", "1:"]
        if rate:
            self.tc(space, link, *parent, "tbf", "rate", rate, "burst", "128kb", "latency", "20ms")

    def tc(self, space, link, *arguments):
        """Adds a queueing discipline."""
        subprocess.run(["ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", link, *arguments], check=True,
                       capture_output=True, text=True)

    def mpirun(self, division, *words):
        """What comes before a program that is to run division[i] ranks on host i; words: more for mpirun."""
        slots = ",".join(f"{host}:{ranks}" for host, ranks in zip(self.hosts, division))
        return ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", 'hostname switch; exec "$@"', "sh",
                os.environ.get("MPIRUN", "mpirun"), "--mca", "plm_rsh_agent", str(self.agent), "--mca",
                "btl_tcp_if_include", f"{SUBNET}.0/24", "--mca", "oob_tcp_if_include", f"{SUBNET}.0/24", "--host", slots,
                "--bind-to", "none", "-np", str(sum(division)), *words]

    def ranks(self, program):
        """Process of every rank of a program, by number."""
        found = {}
        for host in self.hosts:
            for pid in pids(f"{self.name}-{host}"):
                try:
                    if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() != program:
                        continue
                    rank = re.search(rb"\0OMPI_COMM_WORLD_RANK=(\d+)\0", pathlib.Path(f"/proc/{pid}/environ").read_bytes())
                except OSError:
                    continue
                if rank:
                    found[int(rank[1])] = pid
        return found

    def close(self):
        """Ends all of it."""
        for host in self.hosts:
            destroy(f"{self.name}-{host}")
        destroy(self.name)
