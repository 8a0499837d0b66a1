"""The image: built by buildah from launch/kubernetes/image/Containerfile over a base of Debian's packages, run by podman,
and then what pods are made of (pods.py), in which a worker is lost and all are evicted.

Takes minutes, needs root and the distribution's packages, and leaves nothing behind: images lie in a directory of its own.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import pods
import test_pods

# As root without systemd, crun does not run and runc does, with limits that the machine can grant.
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
MINUTES = 60 # seconds


# Whatever a command has started ends with it, and it with this program; what it has mounted goes too.
CAGE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def run(command, deadline, **options):
    """Runs a command to its end; returns what it said, on both channels."""
    done = subprocess.run([*CAGE, *(str(word) for word in command)], check=False, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=deadline,
                          **options)
    return done.returncode, done.stdout


class Engine:
    """buildah and podman with storage of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.options = ["--root", folder / "storage", "--runroot", folder / "run", "--storage-driver", "vfs",
                        "--runtime", shutil.which("runc", path=pods.PATH)]

    def podman(self, *arguments, deadline=10 * MINUTES):
        """Runs podman: (exit code, output)."""
        return run(["podman", *self.options, "--cgroup-manager", "cgroupfs", *arguments], deadline)

    def make_base(self):
        """Makes what the Containerfile's base is without a registry. Returns why it cannot be had, or nothing."""
        code, said = run(["debootstrap", "--variant=minbase", "bookworm", self.folder / "base"], 15 * MINUTES)
        return None if code == 0 else f"debootstrap cannot make a base: {said.strip().splitlines()[-1]}"

    def probe(self):
        """Why a container cannot be run here, or nothing."""
        code, said = self.podman("run", "--rm", "--network", "none", *LIMITS, "--rootfs", self.folder / "base", "true")
        return None if code == 0 else f"podman cannot run containers here: {said.strip().splitlines()[-1]}"

    def import_base(self):
        """Makes the base known under its name."""
        archive = self.folder / "base.tar"
        code, said = run(["tar", "--create", "--file", archive, "--directory", self.folder / "base", "."], 5 * MINUTES)
        if code == 0:
            code, said = self.podman("import", archive, "localhost/base")
        if code != 0:
            raise AssertionError(said)
        archive.unlink()
        run(["rm", "-rf", self.folder / "base"], 5 * MINUTES)

    def build(self):
        """Builds localhost/lockstep as the Containerfile's first lines say."""
        self.import_base()
        code, said = run(["buildah", *self.options, "bud", "--network", "host", "--isolation", "oci", *LIMITS,
                          "--build-arg", "BASE=localhost/base", "-f", "launch/kubernetes/image/Containerfile",
                          "-t", "localhost/lockstep", "."], 40 * MINUTES, cwd=pods.ROOT)
        if code != 0:
            raise AssertionError(said[-6000:])

    def container(self, *command, mounts=()):
        """Runs a command in the image, as its user, without a network: its output."""
        volumes = [word for mount in mounts for word in ("-v", mount)]
        code, said = self.podman("run", "--rm", "--network", "none", *LIMITS, *volumes, "localhost/lockstep", *command)
        if code != 0:
            raise AssertionError(f"{command}: exit code {code}\n{said}")
        return said

    def root(self):
        """The image's files, as a directory of this machine."""
        for arguments in [("create", "--name", "files", "localhost/lockstep", "true"), ("mount", "files")]:
            code, said = self.podman(*arguments)
            if code != 0:
                raise AssertionError(said)
        return pathlib.Path(said.strip().splitlines()[-1])


class Image(test_pods.Case):
    """What is in the image, and what runs in it."""

    engine = None

    def undisturbed(self):
        # By the program that the pods had: another compiler may make other bits.
        self.engine.container("lockstep", "train", "-c", "/config/train.yaml", "--run-dir", "/runs/plain",
                              mounts=[f"{self.dir}/runs:/runs", f"{self.dir}/config:/config"])
        (self.dir / "runs" / "plain").rename(self.dir / "plain")

    def test_contents(self):
        said = self.engine.container("sh", "-c", "id -u; pwd; lockstep version; ls /etc/ssh; which orted sshd ssh hosts")
        self.assertTrue(said.startswith("1000\n/home/lockstep\nlockstep "), said)
        self.assertNotIn("ssh_host_", said, "a key that all who have the image know")
        for name in ["/usr/bin/orted", "/usr/sbin/sshd", "/usr/bin/ssh", "/usr/local/bin/hosts"]:
            self.assertIn(name, said)

    def test_ranks_in_one_container(self):
        self.engine.container("mpirun", "--oversubscribe", "-np", "2", "lockstep", "train", "-c", "/config/train.yaml",
                              "--run-dir", "/runs/train", "--set", "train.max_steps=20",
                              mounts=[f"{self.dir}/runs:/runs", f"{self.dir}/config:/config"])
        self.assertEqual(self.status("runs/train")["state"], "completed")
        self.assertEqual(self.status("runs/train")["world_size"], 2)

    test_deleted_and_evicted = test_pods.Short.test_deleted_and_evicted


def missing():
    """Why this cannot be tried here, or nothing."""
    for tool in ["buildah", "podman", "runc", "debootstrap"]:
        if not shutil.which(tool, path=pods.PATH):
            return f"needs {tool}"
    return pods.missing()


def main():
    """Builds the image and runs the tests."""
    os.environ["PATH"] = f"{pods.PATH}:{os.environ['PATH']}"
    reason = missing()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="lockstep-image-") as folder:
        Image.engine = Engine(pathlib.Path(folder))
        reason = Image.engine.make_base() or Image.engine.probe()
        if reason:
            print(f"skipped: {reason}")
            sys.exit(77)
        try:
            Image.engine.build()
            Image.system = Image.engine.root()
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(Image)
            good = unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful()
        finally:
            Image.engine.podman("rm", "--all", "--force")
            Image.engine.podman("rmi", "--all", "--force")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
