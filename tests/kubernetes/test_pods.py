"""What the MPI Operator makes of launch/kubernetes, without a cluster: pods are namespaces on this machine (pods.py).

Workers are deleted, evicted and cut off while a run goes on; its final hash and its losses are those of a run that
nobody disturbed. `test_pods.py short` runs one scenario, `test_pods.py long` the others,
and with a scenario's name it runs that.
"""

import os
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
train: {batch: 64, lanes: 8, max_steps: 1500}
optimizer: {lr: 0.01, clip_norm: 0.5}
checkpoint: {every: 100, keep_last: 100}
log: {every: 1}
runtime: {precision: fp32}
collectives: {timeout: 60}
"""


class Case(harness.Case):
    """A cluster with one submitted job, and the undisturbed run to compare with."""

    workers, slots, config = 3, 1, CONFIG

    def setUp(self):
        super().setUp()
        job = manifests.render("overlays/eks", "MPIJob")
        job["spec"]["slotsPerWorker"] = self.slots
        job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] = self.workers
        launcher = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        # Three ranks on two cores that wait by spinning would take the cores from the one that computes.
        launcher["env"].append({"name": "OMPI_MCA_mpi_yield_when_idle", "value": "1"})
        self.change(job)
        self.cluster = pods.Cluster(self.dir, job, harness.LOCKSTEP, self.config)
        self.addCleanup(self.cluster.destroy)
        data = harness.import_images(self)
        data.rename(self.dir / "runs" / "images.h5")
        (self.dir / "plain.yaml").write_text(
            self.config.replace("/runs/", f"{self.dir}/runs/"), encoding="utf-8")

    def change(self, job):
        """What a test changes in the job."""

    def launch(self):
        """Submits the job."""
        return self.cluster.submit()

    def wait_for_step(self, launcher, attempt, more=40):
        """Waits until an attempt has made some steps of its own."""
        def steps():
            self.assertTrue(launcher.alive(), launcher.output())
            path = self.dir / "runs" / "train" / "metrics.jsonl"
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            return sum(f'"attempt": {attempt}' in line or f'"attempt":{attempt}' in line for line in lines) >= more
        wait_for(f"attempt {attempt} makes {more} steps", steps)

    def assert_undisturbed(self, launcher, attempts):
        """The job has succeeded, in so many attempts or more, with the numbers of a run that nothing happened to."""
        self.assertEqual(launcher.code(), 0, launcher.output())
        self.assertEqual(self.status("runs/train")["state"], "completed")
        self.assertGreaterEqual(self.status("runs/train")["attempt"], attempts)
        self.run_lockstep("train", "-c", "plain.yaml", "--run-dir", "plain")
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
        wait_for("the launcher finds no worker", lambda: "no worker answers yet" in launcher.output())
        launcher.terminate()
        self.assertEqual(launcher.code(), 75, launcher.output())

        launcher = self.launch()
        self.wait_for_step(launcher, 3)
        self.assertEqual(self.events("runs/train", "resume")[-1]["step"], step, "no step was lost")
        self.assert_undisturbed(launcher, 3)


class Cut(Case):
    """A worker's link is cut: mpirun notices by its keep-alive, and the job goes on without that worker."""

    def test_cut_link(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1)
        away = self.cluster.pods["train-worker-2"]
        away.cut()
        begun = time.monotonic()
        self.wait_for_step(launcher, 2)
        print(f"new steps {time.monotonic() - begun:.1f} s after the cut", file=sys.stderr)
        self.assertEqual(self.status("runs/train")["world_size"], 2)
        wait_for("the ranks that were cut off end", lambda: not self.ranks(away), 120)
        away.cut(down=False)
        self.assert_undisturbed(launcher, 2)


class Unreachable(Case):
    """Without keep-alive mpirun hears nothing of a cut link. The ranks end by their own deadline, with exit code 124, on both
    sides of the cut; mpirun ends when the link is back and it can be told."""

    config = CONFIG.replace("timeout: 60", "timeout: 5")

    def change(self, job):
        environment = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]["env"]
        environment[:] = [item for item in environment if "keepalive" not in item["name"]]

    def test_deadline(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1)
        away = self.cluster.pods["train-worker-2"]
        away.cut()
        begun = time.monotonic()
        for name in self.cluster.worker_names():
            wait_for(f"{name}: the deadline ends its ranks", lambda n=name: not self.ranks(self.cluster.pods[n]))
        print(f"no rank lives {time.monotonic() - begun:.1f} s after the cut", file=sys.stderr)
        self.assertNotIn("exit code", launcher.output(), "mpirun does not know it yet")
        away.cut(down=False)
        wait_for("mpirun ends with the ranks' exit code", lambda: "exit code 124" in launcher.output())
        self.assert_undisturbed(launcher, 2)


class Grace(Case):
    """The grace period ends before the ranks do: they are killed, and the run goes on from its newest checkpoint."""

    def change(self, job):
        job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["terminationGracePeriodSeconds"] = 3

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
        self.assert_undisturbed(launcher, 3)


class Matrix(Case):
    """Four workers of two ranks: one after the other is evicted, and comes back as another leaves."""

    workers, slots = 4, 2

    def test_one_after_the_other(self):
        launcher = self.launch()
        self.wait_for_step(launcher, 1)
        for attempt, name in enumerate(self.cluster.worker_names(), 2):
            self.assertIsNotNone(self.cluster.terminate([name])[name])
            self.wait_for_step(launcher, attempt)
            self.assertEqual(self.status("runs/train")["world_size"], 6)
            self.cluster.create_workers()
        self.assertEqual(len(self.events("runs/train", "preempt")), 4)
        self.assert_undisturbed(launcher, 5)


def main():
    """Runs the tests of one kind."""
    reason = pods.missing()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    os.environ["PATH"] = f"{pods.PATH}:{os.environ['PATH']}"
    kinds = {"short": [Short], "long": [Cut, Unreachable, Grace, Launcher, Matrix]}
    asked = sys.argv[1] if len(sys.argv) > 1 else "short"
    cases = kinds.get(asked) or [globals()[asked]]
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases)
    sys.exit(0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1)


if __name__ == "__main__":
    main()
