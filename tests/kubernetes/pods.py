"""A stand-in for cluster and MPI Operator on one machine: what an MPIJob's pods see, as far as ranks can tell.

A pod is a process in network, UTS, IPC, mount and process namespaces of its own, with an address on a bridge, the
container's user, sshd on its port, and the names, hostfile and environment variables that the operator gives it.
Commands, hooks, grace periods and environment come from the MPIJob itself. What is not there: scheduler, node, image
(test_image.py), DNS (a hosts file), and the delay with which Kubernetes does everything.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests" / "end_to_end")]

import harness  # noqa: E402  (the path above leads to it)

IMAGE = ROOT / "launch" / "kubernetes" / "image"
USER = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "--no-new-privs"]
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def missing():
    """Why pods cannot be made here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    for tool in ["ip", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen", "sshd", "mpirun"]:
        if not shutil.which(tool, path=PATH):
            return f"needs {tool}"
    probe = f"lsk{os.getpid()}p"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
    inside = made and subprocess.run(["ip", "netns", "exec", probe, "unshare", "--uts", "--ipc", "--mount", "--pid",
                                      "--fork", "mount", "-t", "tmpfs", "probe", "/mnt"],
                                     capture_output=True, check=False).returncode == 0
    linked = made and subprocess.run(["ip", "-n", probe, "link", "add", "br0", "type", "bridge"],
                                     capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", probe], check=False)
    return None if inside and linked else "needs network, mount and process namespaces"


def sweep():
    """Takes away the networks of tests that were killed; their pods died with them."""
    listed = subprocess.run(["ip", "netns", "list"], check=False, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        owner = re.match(r"lsk(\d+)(-\d+|p)?\b", line)
        if owner and not pathlib.Path("/proc", owner[1]).exists():
            subprocess.run(["ip", "netns", "del", line.split()[0]], check=False, capture_output=True)


def ip(*arguments):
    """Runs ip."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def wait_for(what, condition, deadline=harness.DEADLINE):
    """Waits until a condition holds, and returns its value."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.02)
    return value


class Pod:
    """One pod, from its creation to its end."""

    def __init__(self, cluster, name, template, environment):
        self.cluster, self.name = cluster, name
        self.space, self.address = cluster.connect(self)
        spec = template["spec"]
        self.grace = spec["terminationGracePeriodSeconds"]
        self.container = spec["containers"][0]
        root = cluster.folder / "roots" / self.space
        root.mkdir(parents=True)
        self.log = cluster.folder / "logs" / f"{self.space}-{name}"
        self.log.parent.mkdir(exist_ok=True)
        variables = {item["name"]: item.get("value", "") for item in self.container.get("env", [])} | environment
        command = ["env", "-i", f"PATH={PATH}", "HOME=/home/lockstep", *(f"{k}={v}" for k, v in variables.items()),
                   *self.container["command"], *self.container.get("args", [])]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.space, "unshare", "--uts", "--ipc", "--mount",
                 "--pid", "--fork", "--kill-child", str(HERE / "pod.sh"), str(root), *command],
                env={"PATH": PATH, "NAME": name, "SHARED": str(cluster.folder), "IMAGE": str(cluster.image),
                     "SYSTEM": str(cluster.system or "")},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.first = wait_for(f"{name}'s first process", lambda: harness.children(self.process.pid))[0]

    def execute(self, command, deadline=None):
        """Runs a command as Kubernetes runs a hook, in the container as its user; None when it takes too long."""
        inside = ["nsenter", "--target", str(self.first), "--mount", "--uts", "--ipc", "--net", "--pid", "--root",
                  "--wd", *USER, "env", "-i", f"PATH={PATH}", "HOME=/home/lockstep", *command]
        with subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as process:
            try:
                output, _ = process.communicate(timeout=deadline)
            except subprocess.TimeoutExpired:
                harness.kill_family(process.pid)
                return None
        return subprocess.CompletedProcess(command, process.returncode, output)

    def alive(self):
        """Whether the pod runs."""
        return self.process.poll() is None

    def code(self, deadline=harness.DEADLINE):
        """Waits for the container's end."""
        return self.process.wait(deadline)

    def kill(self):
        """Ends all of the pod at once, as when its node is lost."""
        for pid in harness.children(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(20)
        self.cluster.disconnect(self)

    def terminate(self):
        """Ends the pod as the kubelet does: hook, SIGTERM to the first process, SIGKILL when the grace is over.
        Returns the seconds that the hook took, None when it did not end."""
        begun = time.monotonic()
        hook, took = self.container.get("lifecycle", {}).get("preStop"), 0.0
        if hook:
            done = self.execute(hook["exec"]["command"], self.grace)
            took = time.monotonic() - begun if done else None
        if self.alive():
            os.kill(self.first, signal.SIGTERM)
        try:
            self.process.wait(max(2.0, self.grace - (time.monotonic() - begun)))
        except subprocess.TimeoutExpired:
            pass
        if self.alive():
            os.kill(self.first, signal.SIGKILL)
            self.process.wait(20)
        self.cluster.disconnect(self)
        return took

    def cut(self, down=True):
        """Takes the pod's link away, or gives it back."""
        ip("-n", self.cluster.bridge, "link", "set", self.space, "down" if down else "up")

    def output(self):
        """What the container has printed, without a line for each step."""
        lines = self.log.read_text(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("step "))


class Cluster:
    """The bridge, the storage and what the operator does about one MPIJob. The image's files are launch/kubernetes/image
    and this program, over the machine's own /usr; or those of an image's root directory, `system`."""

    def __init__(self, folder, job, lockstep, config, system=None):
        self.folder, self.job, self.system, self.pods, self.count = folder, job, system, {}, 0
        sweep()
        self.bridge = f"lsk{os.getpid()}"
        self.image = folder / "image"
        self.image.mkdir()
        for path in [*IMAGE.iterdir(), pathlib.Path(lockstep)]:
            shutil.copy(path, self.image / path.name)
        for part in ["key", "runs", "config", "mpi"]:
            (folder / part).mkdir()
        folder.chmod(0o755)
        os.chown(folder / "runs", 1000, 1000)
        (folder / "config" / "train.yaml").write_text(config, encoding="utf-8")
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(folder / "key" / "id_rsa")], check=True)
        shutil.copy(folder / "key" / "id_rsa.pub", folder / "key" / "authorized_keys")
        for path in (folder / "key").iterdir(): # as in a Secret's volume: root's, readable for the pod's group
            os.chown(path, 0, 1000)
            path.chmod(0o440)
        (folder / "hosts").write_text("127.0.0.1 localhost\n", encoding="ascii")
        ip("netns", "add", self.bridge)
        ip("-n", self.bridge, "link", "add", "br0", "type", "bridge")
        ip("-n", self.bridge, "link", "set", "br0", "up")

    # ---- Network -------------------------------------------------------------------------------------------------

    def connect(self, pod):
        """A network namespace for a pod, at a new address: (namespace, address)."""
        self.count += 1
        space, address = f"{self.bridge}-{self.count}", f"10.244.7.{self.count}"
        ip("netns", "add", space)
        ip("-n", self.bridge, "link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("-n", self.bridge, "link", "set", space, "master", "br0", "up")
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        self.pods[pod.name] = pod
        pod.address = address
        self.name_hosts()
        return space, address

    def disconnect(self, pod):
        """A pod has ended: its network goes, and its name leads nowhere."""
        subprocess.run(["ip", "netns", "del", pod.space], check=False, capture_output=True)
        if self.pods.get(pod.name) is pod:
            del self.pods[pod.name]
        self.name_hosts()
        self.write_hosts()

    def full_name(self, name):
        """A pod's name in the job's service."""
        return f"{name}.{self.job['metadata']['name']}.{self.job['metadata']['namespace']}.svc"

    def name_hosts(self):
        """What DNS knows."""
        lines = ["127.0.0.1 localhost"]
        lines += [f"{pod.address} {self.full_name(name)} {name}" for name, pod in self.pods.items()]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n", encoding="ascii")

    # ---- The operator --------------------------------------------------------------------------------------------

    def replica(self, role):
        """A role's part of the job."""
        return self.job["spec"]["mpiReplicaSpecs"][role]

    def worker_names(self):
        """Names of all workers that the job asks for."""
        return [f"{self.job['metadata']['name']}-worker-{i}" for i in range(self.replica("Worker")["replicas"])]

    def write_hosts(self):
        """The hostfile, which never changes, and the list of workers that run."""
        slots = self.job["spec"]["slotsPerWorker"]
        running = [name for name in self.worker_names() if name in self.pods]
        (self.folder / "mpi" / "hostfile").write_text(
            "".join(f"{self.full_name(name)} slots={slots}\n" for name in self.worker_names()), encoding="ascii")
        (self.folder / "mpi" / "discover_hosts.sh").write_text(
            "#!/bin/sh\n" + "".join(f"echo {self.full_name(name)}\n" for name in running), encoding="ascii")

    def create_workers(self):
        """Makes the workers that are missing, and waits until they are ready."""
        for name in self.worker_names():
            if name not in self.pods:
                Pod(self, name, self.replica("Worker")["template"], {"K_MPI_JOB_ROLE": "worker"})
        for name in self.worker_names():
            pod = self.pods[name]
            port = pod.container["readinessProbe"]["tcpSocket"]["port"]
            probe = ["bash", "-c", f"exec 3<>/dev/tcp/{pod.address}/{port}"]
            wait_for(f"{name} is ready", lambda p=pod, c=probe: p.execute(c).returncode == 0)
        self.write_hosts()

    def create_launcher(self):
        """Makes the launcher."""
        name = f"{self.job['metadata']['name']}-launcher"
        return Pod(self, name, self.replica("Launcher")["template"], {
            "K_MPI_JOB_ROLE": "launcher", "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
            "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile", "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
            "OMPI_MCA_orte_set_default_slots": str(self.job["spec"]["slotsPerWorker"]),
            "NVIDIA_VISIBLE_DEVICES": "", "NVIDIA_DRIVER_CAPABILITIES": ""})

    def submit(self):
        """The launcher, which is returned, and workers."""
        launcher = self.create_launcher()
        self.create_workers()
        return launcher

    def terminate(self, names):
        """Terminates pods at the same time; returns how long each hook took."""
        took = {}

        def end(name):
            took[name] = self.pods[name].terminate()

        threads = [threading.Thread(target=end, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return took

    def destroy(self):
        """Ends every pod and takes the network away."""
        for pod in list(self.pods.values()):
            pod.kill()
        subprocess.run(["ip", "netns", "del", self.bridge], check=False)
