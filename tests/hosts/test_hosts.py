"""Training on several hosts, which are network namespaces (network.py): the bits of one rank, whatever the division,
and who is named when a rank of another host dies or stands still."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "end_to_end")]

import harness  # noqa: E402  (the path above leads to them)
import network  # noqa: E402
from harness import CONFIG, Case, import_images  # noqa: E402

SMALL = ("train.max_steps=10", "checkpoint.every=0", "eval.every=0", "collectives.bucket_mb=0.0625", "model.hidden=[200,30]")


class Hosts(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.network = network.Network(self.dir, 4, rate="1gbit", delay="0.1ms" if network.can_delay() else None)
        self.addCleanup(self.network.close)

    def start(self, division, run, *settings, words=()):
        command = ["train", "-c", "config.yaml", "--run-dir", run]
        for setting in settings:
            command += ["--set", setting]
        return self.start_command(division, command, words)

    def start_command(self, division, command, words=()):
        command = [*self.network.mpirun(division, *words), harness.LOCKSTEP, *command]
        process = subprocess.Popen(command, cwd=self.dir, env=harness.environment(), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.addCleanup(harness.kill_family, process.pid)
        return process

    def train(self, division, run, *settings, words=()):
        result = harness.finish(self.start(division, run, *settings, words=words))
        self.assertEqual(result.code, 0, f"{division} {settings}: {result}")
        return json.loads((self.dir / run / "env.json").read_text(encoding="utf-8"))["communicator"]

    def alone(self):
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "alone",
                          *(word for setting in SMALL for word in ("--set", setting)))
        return self.hash("alone"), self.losses("alone")

    def test_any_division(self):
        expected = self.alone()
        for division, name in (((1, 1), "mpi"), ((2, 2), "shared+mpi"), ((1, 2, 1), "shared+mpi"), ((2, 1, 2, 2), "shared+mpi")):
            with self.subTest(division=division):
                run = "-".join(map(str, division))
                self.assertEqual(self.train(division, run, *SMALL), name)
                self.assertEqual((self.hash(run), self.losses(run)), expected)

    def test_ways_to_share(self):
        expected = self.alone()
        for settings in (("optimizer.shard=none",), ("optimizer.shard=state+gradients",), ("collectives.backend=mpi",),
                         ("collectives.backend=shared", "runtime.precision=fp32")):
            with self.subTest(settings=settings):
                run = settings[0]
                self.train((2, 1), run, *SMALL, *settings)
                self.assertEqual((self.hash(run), self.losses(run)), expected)

    def test_ranks_in_turn(self):
        """Where a host's ranks do not follow one another, messages carry all."""
        expected = self.alone()
        self.assertEqual(self.train((2, 2), "run", *SMALL, words=("--map-by", "node")), "mpi")
        self.assertEqual((self.hash("run"), self.losses("run")), expected)

    def test_bench_says_what_goes_between_hosts(self):
        for division, backend, line in (((2, 2), "auto", "2 hosts, two levels: the busiest sends 0.67"),
                                        ((2, 2), "mpi", "2 hosts, one level: the busiest sends 1.33"),
                                        ((1, 1, 1, 1), "auto", "4 hosts, one level: the busiest sends 1.00")):
            with self.subTest(division=division, backend=backend):
                command = ["bench", "allreduce", "-b", "1M", "-e", "1M", "-n", "1", "--windows", "1", "--backend", backend]
                result = harness.finish(self.start_command(division, command))
                self.assertEqual(result.code, 0, str(result)) # also: no result is wrong
                self.assertIn(line, result.stdout)

    def disturb(self, number, timeout):
        """Sends a signal to rank 3, on the second host, in the midst of a run."""
        process = self.start((2, 2), "run", "train.max_steps=10000000", "checkpoint.every=0", "eval.every=0",
                             f"collectives.timeout={timeout}")
        harness.wait_for_step(self, process, "run", 5)
        victim = self.network.ranks("lockstep")[3]
        os.kill(victim, number)
        try:
            return harness.finish(process)
        finally:
            if harness.alive(victim):
                os.kill(victim, signal.SIGKILL)

    def test_killed_rank_is_named(self):
        result = self.disturb(signal.SIGKILL, 60)
        self.assertEqual(result.code, 137, str(result))
        self.assertRegex(result.stderr, r"process rank 3 .*on node node2 exited on signal 9")

    def test_stopped_rank_is_named(self):
        result = self.disturb(signal.SIGSTOP, 5)
        self.assertEqual(result.code, 124, str(result))
        self.assertRegex(result.failures[0], r"rank \d on node\d waited 5 s for .*no sign of life from rank 3;")


if __name__ == "__main__":
    reason = network.missing()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main(verbosity=1)
