"""What the MPI Operator makes of launch/kubernetes, without a cluster: pods are namespaces on this machine (pods.py).

Workers are deleted, evicted and cut off while a run goes on; its final hash and its losses are those of a run that
nobody disturbed. `test_pods.py short` runs one scenario, `test_pods.py long` the others, and with a scenario's name it
runs that.
"""

import os
import re
import signal
import sys
import time
import unittest

try:
    import manifests
except ImportError:
    print("skipped: needs python3-yaml")
    sys.exit(77)

import pods
from pods import harness, wait_for

CONFIG = """\
model: {hidden: [64, 32], dropout: 0.2}
data: {path: /runs/images.h5}
train: {batch: 64, lanes: 8, max_steps: 1000000}
optimizer: {lr: 0.0002, clip_norm: 0.5}
checkpoint: {every: 100, keep_last: 100}
log: {every: 1}
runtime: {precision: fp32}
collectives: {timeout: 60}
"""


class Case(harness.Case):
    """A cluster with one submitted job, and the undisturbed run to compare with."""

    workers, slots, config, system = 3, 1, CONFIG, None

    def setUp(self):
        super().setUp()
        job = manifests.render("overlays/eks", "MPIJob")
        job["spec"]["slotsPerWorker"] = self.slots
        job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] = self.workers
        launcher = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        # Three ranks on two cores that wait by spinning would take the cores from the one that computes.
        launcher["env"].append({"name": "OMPI_MCA_mpi_yield_when_idle", "value": "1"})
        launcher["args"].insert(0, f"--settle={self.settle}")
        self.change(job)
        self.cluster = pods.Cluster(self.dir, job, harness.LOCKSTEP, self.config, self.system)
        self.addCleanup(self.cluster.destroy)
        data = harness.import_images(self)
        data.rename(self.dir / "runs" / "images.h5")

    settle = 3600 # seconds: a job that runs is not stopped for workers that come

    def change(self, job):
        """What a test changes in the job."""

    def undisturbed(self):
        """Makes the run `plain`, to which nothing happens."""
        self.write("plain.yaml", self.config.replace("/runs/", f"{self.dir}/runs/"))
        self.run_lockstep("train", "-c", "plain.yaml", "--run-dir", "plain")

    def launch(self):
        """Submits the job."""
        return self.cluster.submit()

    def wait_for_step(self, launcher, attempt, more=40, deadline=harness.DEADLINE):
        """Waits until an attempt, or one after it, has made some steps of its own."""
        def steps():
            self.assertTrue(launcher.alive(), launcher.output())
            path = self.dir / "runs" / "train" / "metrics.jsonl"
            text = path.read_bytes()[-100_000:].decode() if path.exists() else ""  # the newest few hundred
            found = re.findall(r'"attempt": ?(\d+)', text)
            return sum(int(number) >= attempt for number in found) >= more
        try:
            wait_for(f"attempt {attempt} makes {more} steps", steps, deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{launcher.output()}") from None

    def ranks_by_attempt(self):
        """How many ranks each attempt has had."""
        return [event["world_size"] for event in self.events("runs/train", "start") + self.events("runs/train", "resume")]

    def assert_undisturbed(self, launcher, attempts):
        """The job, which has had so many attempts or more, comes to an end with the numbers of a run that nothing happened
        to. However fast this machine is, it is still running: it is stopped, and given an end soon after that step."""
        launcher.terminate()
        self.assertEqual(launcher.code(), 75, launcher.output())
        durable = (self.dir / "runs" / "train" / "checkpoints").glob("step-*/manifest.json")
        last = max(int(path.parent.name[5:]) for path in durable)
        self.config = self.config.replace("max_steps: 1000000", f"max_steps: {last + 50}")
        self.write("config/train.yaml", self.config)
        launcher = self.cluster.create_launcher()
        self.assertEqual(launcher.code(), 0, launcher.output())
        self.assertEqual(self.status("runs/train")["state"], "completed")
        self.assertGreaterEqual(self.status("runs/train")["attempt"], attempts)
        self.undisturbed()
        self.assertEqual(self.hash("runs/train"), self.hash("plain"))
        self.assertEqual(self.losses("runs/train"), self.losses("plain"))
        self.assert_no_leftovers()

    def ranks(self, pod):
        """Process ids, as this machine sees them, of a pod's ranks."""
        def below(pid):
            for child in harness.children(pid):
                yield child
                yield from below(child)
        def name(pid):
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    return file.read().strip()
            except OSError:
                return ""
        return [pid for pid in below(pod.process.pid) if name(pid) == "lockstep"]


class Short(Case):
    """A worker's node is lost, later all workers are evicted, and the job is submitted again."""

    def test_deleted_and_evicted(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1)
        self.cluster.pods["train-worker-1"].kill()
        self.wait_for_step(launcher, 2)
        self.assertEqual(self.status("runs/train")["world_size"], 2, "the run goes on on those that are left")
        self.cluster.create_workers()

        took = self.cluster.terminate(self.cluster.worker_names())
        for name, seconds in took.items():
            self.assertIsNotNone(seconds, f"{name}: the ranks had not ended when the grace period was over")
        self.assertEqual(self.status("runs/train")["state"], "preempted", launcher.output())
        step = self.events("runs/train", "preempt")[-1]["step"]
        said = launcher.execute(["grace-period", "/runs/train"]).stdout
        needed = re.search(r"stops: 1;.*\nterminationGracePeriodSeconds: (\d+) or more", said)
        self.assertTrue(needed, said)
        self.assertLessEqual(max(seconds for seconds in took.values()), int(needed[1]))
        wait_for("the launcher finds no worker", lambda: "waiting for hosts" in launcher.output())
        launcher.terminate()
        self.assertEqual(launcher.code(), 75, launcher.output())

        launcher = self.launch()
        self.wait_for_step(launcher, 3)
        self.assertEqual(self.events("runs/train", "resume")[-1]["step"], step, "no step was lost")
        self.assert_undisturbed(launcher, 3)


class Cut(Case):
    """A worker's link is cut: its ranks fall silent, and the job goes on without that worker."""

    def test_cut_link(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1)
        away = self.cluster.pods["train-worker-2"]
        away.cut()
        begun = time.monotonic()
        self.wait_for_step(launcher, 2)
        print(f"new steps {time.monotonic() - begun:.1f} s after the cut", file=sys.stderr)
        self.assertEqual(self.status("runs/train")["world_size"], 2)
        # By Open MPI's keep-alive, not by the ranks' own deadline, which is longer than this.
        wait_for("the ranks that were cut off end", lambda: not self.ranks(away), 45)
        away.cut(down=False)
        self.assert_undisturbed(launcher, 2)


class Mended(Case):
    """A link is cut and comes back while the ranks behind it live: their records and saves are not taken any more."""

    def test_link_comes_back(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1)
        away = self.cluster.pods["train-worker-2"]
        for pid in self.ranks(away):
            os.kill(pid, signal.SIGSTOP)
        away.cut()
        self.wait_for_step(launcher, 2)
        away.cut(down=False)
        for pid in self.ranks(away):
            os.kill(pid, signal.SIGCONT)
        wait_for("the ranks that were cut off end", lambda: not self.ranks(away), 45)
        self.assert_undisturbed(launcher, 2)


class Grace(Case):
    """The grace period ends before the ranks do: they are killed, and the run goes on from its newest checkpoint."""

    def change(self, job):
        # Less than what it takes the launcher to name a rank that stands still.
        job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1

    def test_too_short(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1, 150)
        stuck = self.cluster.pods["train-worker-0"]
        for pid in self.ranks(stuck):
            os.kill(pid, signal.SIGSTOP) # as if its save took forever
        self.assertIsNone(self.cluster.terminate(["train-worker-0"])["train-worker-0"])
        self.cluster.create_workers()
        self.wait_for_step(launcher, 2)
        self.assertGreaterEqual(self.events("runs/train", "resume")[-1]["step"], 100)
        self.assert_undisturbed(launcher, 2)


class Launcher(Case):
    """The launcher's node is lost, and later the launcher is moved: Kubernetes makes a new one each time."""

    def test_lost_and_moved(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1)
        launcher.kill()
        launcher = self.cluster.create_launcher()
        self.wait_for_step(launcher, 2)
        launcher.terminate()
        self.assertEqual(launcher.code(), 75, launcher.output())
        self.assertEqual(self.status("runs/train")["state"], "preempted")
        launcher = self.cluster.create_launcher()
        self.wait_for_step(launcher, 3)  # a process that has just become a container's first one hears no signal yet
        self.assert_undisturbed(launcher, 3)


class Matrix(Case):
    """Four workers of two ranks: one after the other is evicted, comes back, and takes part again."""

    workers, slots, settle = 4, 2, 1

    def test_one_after_the_other(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1)
        for i, name in enumerate(self.cluster.worker_names()):
            self.assertIsNotNone(self.cluster.terminate([name])[name])
            self.wait_for_step(launcher, 2 * i + 2)
            self.assertEqual(self.ranks_by_attempt()[-1], 6)
            self.cluster.create_workers()
            self.wait_for_step(launcher, 2 * i + 3, deadline=240)  # the launcher asks for new workers now and then
            self.assertEqual(self.ranks_by_attempt()[-1], 8)
        self.assertEqual(len(self.events("runs/train", "preempt")), 8, "no step was lost")
        self.assert_undisturbed(launcher, 9)


def main():
    """Runs the tests of one kind."""
    reason = pods.missing()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    os.environ["PATH"] = f"{pods.PATH}:{os.environ['PATH']}"
    kinds = {"short": [Short], "long": [Cut, Mended, Grace, Launcher, Matrix]}
    asked = sys.argv[1] if len(sys.argv) > 1 else "short"
    cases = kinds.get(asked) or [globals()[asked]]
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases)
    sys.exit(0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1)


if __name__ == "__main__":
    main()
