"""lockstep launch on several hosts: one is lost, cut off, or comes back.

A host is a name of its own (UTS namespace) for processes of this machine, entered through a stand-in for ssh; its death
is theirs, and a host that is cut off or frozen is one whose processes stand still.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import time
import unittest

import harness
import test_launch

AGENT = """\
#!/bin/sh
# HOST COMMAND...: what mpirun does with ssh
host=$1
shift
test -e "{folder}/up/$host" || exit 255
exec setsid unshare --uts sh -c 'hostname "$0"; echo $$ >"{folder}/$0.pid"; exec sh -c "$1"' "$host" "$*"
"""
MPI = "--mca btl_tcp_if_include lo --mca oob_tcp_if_include lo --oversubscribe --bind-to none --mca plm_rsh_agent "


def can_name_hosts():
    return os.geteuid() == 0 and shutil.which("unshare") and subprocess.run(
        ["unshare", "--uts", "true"], check=False, stderr=subprocess.DEVNULL).returncode == 0


@unittest.skipUnless(can_name_hosts(), "needs root and UTS namespaces")
class Hosts(test_launch.Launch):
    def setUp(self):
        super().setUp()
        (self.dir / "up").mkdir()
        self.write("agent", AGENT.format(folder=self.dir)).chmod(0o755)
        self.write("answers", '#!/bin/sh\nexec test -e "up/$1"\n').chmod(0o755)
        self.write("hosts", "nodea:2\nnodeb:2\n")
        self.up("nodea", "nodeb")

    def up(self, *hosts):
        for host in hosts:
            (self.dir / "up" / host).touch()

    def down(self, host):
        """It no longer answers."""
        (self.dir / "up" / host).unlink()

    def launch(self, run, step, *arguments):
        self.take_time(test_launch.STEP, since=step)
        process = test_launch.start(self, ["--ranks", 4, "--discover", "cat hosts", "--probe", "./answers", "--mpi-args",
                                           f"{MPI} {self.dir}/agent", *arguments], run)
        self.addCleanup(harness.kill_family, process.pid)
        harness.wait_for_step(self, process, run, step)
        return process

    def processes(self, host):
        """All processes of a host."""
        space = os.readlink(f"/proc/{(self.dir / host).with_suffix('.pid').read_text().strip()}/ns/uts")
        found = []
        for pid in (int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()):
            try:
                if os.readlink(f"/proc/{pid}/ns/uts") == space:
                    found.append(pid)
            except OSError:
                pass
        self.assertEqual(len([pid for pid in found if test_launch.name(pid) == "lockstep"]), 2, "two ranks on a host")
        return found

    def send(self, pids, number):
        for pid in pids:
            os.kill(pid, number)

    def sizes(self, run):
        return [event["world_size"] for event in self.events(run, "start") + self.events(run, "resume")]

    def test_host_is_lost_and_comes_back(self):
        process = self.launch("run", 20, "--settle", "0.5")
        self.down("nodeb")
        self.send(self.processes("nodeb"), signal.SIGKILL)
        harness.wait_for_step(self, process, "run", 21, attempt=2)
        self.up("nodeb")
        harness.wait_for_step(self, process, "run", 22, attempt=3)
        self.take_time()
        result = self.finish(process)
        # All ranks die together, and which of them is seen first is chance; mpirun may miss the host before that.
        self.assertRegex(result.stderr, r"rank [0-3] on node[ab] \(process \d+\) died|the job failed with code \d+")
        self.assertIn("host nodeb has gone", result.stderr)
        self.assertIn("host nodeb is back", result.stderr)
        self.assertEqual(self.sizes("run"), [4, 2, 4])
        self.assert_same_bits("run")

    def test_host_is_cut_off_with_the_first_rank(self):
        """It holds the run's lock, and wakes up when others have long gone on."""
        process = self.launch("run", 20)
        zombies = self.processes("nodea")
        self.addCleanup(lambda: [harness.kill_family(pid) for pid in zombies])
        self.down("nodea")
        cut = time.monotonic()
        self.send(zombies, signal.SIGSTOP)
        harness.wait_for_step(self, process, "run", 22, attempt=2)
        self.assertEqual(self.sizes("run"), [4, 2])
        self.send(zombies, signal.SIGCONT)
        self.assert_gone(zombies, 20)
        self.take_time()
        result = self.finish(process)
        self.assertRegex(result.stderr, r"rank [01] on nodea \(process \d+\) gives no sign of life for")
        self.assertLess(self.events("run", "restart")[0]["seconds"], time.monotonic() - cut)
        self.assert_same_bits("run")


if __name__ == "__main__":
    harness.main()
