"""Saves while training goes on: they change no bit, and what interrupts them leaves a run that goes on."""

import resource
import signal
import subprocess
import time
import unittest

import harness
from harness import CONFIG, Case, import_images

IO_ERROR, STOPPED, BUSY_STEPS = 74, 75, 100000000

# With a state of some megabytes, of which a save is nearly always under way.
BUSY = CONFIG.replace("hidden: [32, 16]", "hidden: [256, 256]").replace(
    "{every: 20, keep_last: 100}", "{every: 1, keep_last: 3}").replace("every: 20, quick", "every: 0, quick")


class Saves(Case):
    config = CONFIG

    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", self.config)

    def arguments(self, run, *settings):
        return ["train", "-q", "-c", "config.yaml", "--run-dir", run] + [
            word for setting in settings for word in ("--set", setting)]

    def train(self, run, *settings, ranks=0, code=0):
        return self.run_lockstep(*self.arguments(run, *settings), ranks=ranks, code=code)

    def unfinished(self, run):
        return [path for path in (self.dir / run / "checkpoints").glob(".saving-*")]

    def start_and_wait_for_save(self, run, *settings, ranks=0, checkpoints=2, save=0):
        """Starts a run and waits until it has checkpoints and the next one is under way, for some milliseconds more."""
        self.take_time(step=save, save=save)
        process = harness.start(self.arguments(run, *settings), ranks, self.dir, self.slow())
        self.addCleanup(harness.kill_family, process.pid)
        end = time.monotonic() + harness.DEADLINE
        folder = self.dir / run / "checkpoints"
        while not (len(list(folder.glob("step-*"))) >= checkpoints and self.unfinished(run)):
            self.assertLess(time.monotonic(), end, "no save was seen")
            self.assertIsNone(process.poll(), "the run has ended")
            time.sleep(0.001)
        return process


class SameBits(Saves):
    def test_whenever_saved(self):
        """By steps, by the clock and by cost, with one or two saves in flight, on any number of ranks."""
        self.train("seldom", "checkpoint.every=0")
        expected = self.hash("seldom"), self.losses("seldom")
        ways = {"steps": ["checkpoint.every=1"],
                "time": ["checkpoint.policy=time", "checkpoint.interval=0.1"],
                "auto": ["checkpoint.policy=auto", "checkpoint.mtbf=0.001"]}
        for number, (policy, in_flight) in enumerate((p, n) for p in ways for n in (1, 2)):
            for ranks in (1 + number % 4, 1 + (number + 2) % 4):
                with self.subTest(policy=policy, in_flight=in_flight, ranks=ranks):
                    run = f"{policy}-{in_flight}-{ranks}"
                    self.train(run, *ways[policy], f"checkpoint.in_flight={in_flight}", ranks=ranks)
                    self.assertEqual((self.hash(run), self.losses(run)), expected)
        for step in (1, 2, 31, 59):
            path = f"checkpoints/step-{step:08d}"
            self.assertEqual(self.hash(f"steps-1-1/{path}"), self.hash(f"steps-2-2/{path}"))
        self.assert_no_leftovers()

    def test_mtbf(self):
        result = self.run_lockstep(*self.arguments("run", "train.max_steps=200"), "--mtbf", "0.002", ranks=2)
        self.assertNotIn("lockstep: ", result.stderr)
        chosen = [event for event in self.events("run", "checkpoint") if "interval_seconds" in event]
        self.assertEqual([event["mtbf_hours"] for event in chosen], [0.002])
        result = self.run_lockstep(*self.arguments("run"), "--mtbf", "0", code=78)
        self.assert_refused(result, "checkpoint.mtbf")


class Interrupted(Saves):
    config = BUSY

    def test_killed_in_mid_save(self):
        """kill -9 of all ranks while a save is under way: every checkpoint that is there is whole."""
        found = 0
        for attempt in range(2):
            process = self.start_and_wait_for_save(f"killed-{attempt}", f"train.max_steps={BUSY_STEPS}", ranks=2, save=50)
            harness.kill_family(process.pid)
            process.communicate()
            found += len(self.unfinished(f"killed-{attempt}"))
            for path in (self.dir / f"killed-{attempt}" / "checkpoints").glob("step-*"):
                self.run_lockstep("checkpoint", "verify", path)
        self.assertGreater(found, 0, "no save was interrupted")

    def test_resumed_after_a_kill(self):
        self.train("whole", "checkpoint.every=0")
        expected = self.hash("whole"), self.losses("whole")
        process = self.start_and_wait_for_save("killed", ranks=3, save=50)
        harness.kill_family(process.pid)
        process.communicate()
        self.train("killed", ranks=2)
        self.assertEqual(self.status("killed")["attempt"], 2)
        self.assertEqual((self.hash("killed"), self.losses("killed")), expected)
        self.assert_no_leftovers()

    def test_asked_to_stop_in_mid_save(self):
        for ranks, in_flight in ((2, 2), (3, 1)):
            run = f"stopped-{ranks}"
            process = self.start_and_wait_for_save(run, f"train.max_steps={BUSY_STEPS}",
                                                   f"checkpoint.in_flight={in_flight}", ranks=ranks, save=50)
            process.send_signal(signal.SIGUSR1)
            result = harness.finish(process)
            self.assertEqual(result.code, STOPPED, str(result))
            status = self.status(run)
            self.assertEqual((status["state"], status["checkpoint"]),
                             ("preempted", f"{run}/checkpoints/step-{status['step']:08d}"))
            self.run_lockstep("checkpoint", "verify", status["checkpoint"])
            self.assert_no_leftovers()

    def test_superseded_in_mid_save(self):
        """A newer attempt has come: what this one's ranks have begun, each as far as it got, is removed."""
        process = self.start_and_wait_for_save("run", f"train.max_steps={BUSY_STEPS}", "checkpoint.in_flight=2", ranks=3)
        (self.dir / "run" / "attempts" / "000002").mkdir()
        result = harness.finish(process)
        self.assertEqual(result.code, IO_ERROR, str(result))
        self.assert_refused(result, "superseded by attempt 2")
        self.assert_no_leftovers()

    def test_hint(self):
        """SIGCONT alone asks for a checkpoint."""
        process = harness.start(self.arguments("run", f"train.max_steps={BUSY_STEPS}", "checkpoint.every=0"), 0, self.dir)
        self.addCleanup(harness.kill_family, process.pid)
        harness.wait_for_step(self, process, "run", 5)
        process.send_signal(signal.SIGCONT)
        end = time.monotonic() + harness.DEADLINE
        while not self.events("run", "checkpoint"):
            self.assertLess(time.monotonic(), end, "no checkpoint")
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(harness.finish(process).code, STOPPED)
        self.assertEqual(len(self.events("run", "checkpoint")), 2)

    def test_signals_in_mid_product(self):
        """They come at any instruction, also where a library's generated code uses the stack pointer for other things."""
        settings = "train.max_steps=120", "checkpoint.every=0"
        self.train("undisturbed", *settings)
        process = harness.start(self.arguments("run", *settings), 0, self.dir)
        self.addCleanup(harness.kill_family, process.pid)
        harness.wait_for_step(self, process, "run", 5)
        sent = 0
        while process.poll() is None:
            process.send_signal(signal.SIGCONT)
            sent += 1
            time.sleep(0.0002)
        self.assertEqual(harness.finish(process).code, 0)
        self.assertGreater(sent, 100, "the run was over too soon")
        self.assertEqual((self.hash("run"), self.losses("run")), (self.hash("undisturbed"), self.losses("undisturbed")))


class BadDisk(Saves):
    config = BUSY

    def assert_ended_well(self, run, process, *words):
        """The contract's exit code and one line; what is there is whole, and nothing else is there."""
        result = harness.finish(process)
        self.assertEqual(result.code, IO_ERROR, str(result))
        self.assert_refused(result, *words)
        kept = list((self.dir / run / "checkpoints").glob("step-*"))
        self.assertGreaterEqual(len(kept), 2)
        for path in kept:
            self.run_lockstep("checkpoint", "verify", path)
        self.assert_no_leftovers(self.dir / run)

    def test_a_rank_cannot_write(self):
        """A limit on the size of files comes upon one rank in the middle of a run."""
        process = self.start_and_wait_for_save("run", f"train.max_steps={BUSY_STEPS}", ranks=3)
        rank = harness.children(process.pid)[1]
        resource.prlimit(rank, resource.RLIMIT_FSIZE, (200000, 200000))
        self.assert_ended_well("run", process, "state.h5", "File too large")
        self.assertEqual(self.status("run")["state"], "failed")

    def test_full_disk(self):
        disk = self.dir / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "lockstep-test", str(disk)], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("cannot mount a small tmpfs here (needs root)")
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(disk)], check=False)
        process = self.start_and_wait_for_save("disk/run", f"train.max_steps={BUSY_STEPS}", ranks=2)
        with open(disk / "other", "wb", buffering=0) as other:  # somebody else fills the disk
            try:
                while True:
                    other.write(bytes(1 << 16))
            except OSError:
                pass
        self.assert_ended_well("disk/run", process, "No space left")
        (disk / "other").unlink()
        step = self.status("disk/run")["step"]
        self.train("disk/run", f"train.max_steps={step + 5}")
        self.assertEqual(self.status("disk/run")["state"], "completed")


class Commands(Saves):
    def test_prune(self):
        self.train("run", "checkpoint.every=10", "checkpoint.keep_last=100")
        self.run_lockstep("checkpoint", "prune", "absent", code=66)
        result = self.run_lockstep("checkpoint", "prune", "run", "--keep-last", "3", "--dry-run")
        self.assertEqual(len(result.stdout.splitlines()), 3)
        self.assertEqual(len(list((self.dir / "run/checkpoints").iterdir())), 6)
        self.assertIn("nothing", self.run_lockstep("checkpoint", "prune", "run").stdout)
        # A damaged checkpoint is none of the two that stay.
        path = self.dir / "run/checkpoints/step-00000060/state.h5"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        self.run_lockstep("checkpoint", "verify", path.parent, code=76)
        self.run_lockstep("checkpoint", "prune", "run", "--keep-last", "1", "--keep-every", "20")
        self.assertEqual(sorted(p.name for p in (self.dir / "run/checkpoints").iterdir()),
                         [f"step-{step:08d}" for step in (20, 40, 50, 60)])
        process = self.start_and_wait_for_save("busy", "train.max_steps=100000000", "checkpoint.every=1")
        self.assert_refused(self.run_lockstep("checkpoint", "prune", "busy", code=IO_ERROR), "in use")
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(harness.finish(process).code, STOPPED)

    def test_average(self):
        for seed in (1, 2):
            self.train(f"run-{seed}", f"train.seed={seed}")
        self.run_lockstep("checkpoint", "average", "run-1", "run-2", "run-2/checkpoints/step-00000020", "-o", "mean")
        self.run_lockstep("checkpoint", "verify", "mean")
        self.run_lockstep("eval", "--checkpoint", "mean")
        self.train("on", "train.init_from=mean", "train.max_steps=10")
        # The mean of equal numbers is that number, to the bit.
        self.run_lockstep("checkpoint", "average", *["run-1"] * 3, "-o", "same")
        diff = self.run_lockstep("checkpoint", "diff", "run-1", "same", code=76).stdout.splitlines()
        lines = [line for line in diff if line.startswith("parameters/")]
        self.assertEqual(len(lines), 6)
        self.assertTrue(all(line.endswith("equal") for line in lines), lines)
        self.train("other", "model.hidden=[8]")
        result = self.run_lockstep("checkpoint", "average", "run-1", "other", "-o", "new", code=76)
        self.assert_refused(result, "another model")
        self.assertFalse((self.dir / "new").exists())
        self.run_lockstep("checkpoint", "average", "run-1", "-o", "run-2", code=2)
        self.run_lockstep("checkpoint", "average", "run-1", code=2)


if __name__ == "__main__":
    unittest.main()
