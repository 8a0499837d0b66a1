"""Ways to train: optimizers, schedules, losses, ends of a run, and being stopped."""

import json
import math
import os
import signal
import subprocess
import time
import unittest
from pathlib import Path

import harness
from harness import CONFIG, Case, import_images, import_table

TABLE = """\
model: {hidden: [16]}
data: {path: table.h5}
train: {batch: 32, lanes: 4, max_epochs: 30}
optimizer: {lr: 0.01}
eval: {every: 50, quick_samples: 0, batch: 64}
checkpoint: {every: 0}
log: {every: 10}
runtime: {precision: fp32}
"""


class Modes(Case):
    def train(self, run, *settings, ranks=0, code=0, arguments=()):
        options = [part for setting in settings for part in ("--set", setting)]
        return self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", run, *options, *arguments,
                                 ranks=ranks, code=code)

    def column(self, run, name):
        lines = (self.dir / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)[name] for line in lines]


class Images(Modes):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def test_optimizers_learn_and_keep_their_bits(self):
        for name, settings in {
            "adamw": ["optimizer.kind=adamw", "optimizer.weight_decay=0.05"],
            "sgd": ["optimizer.kind=sgd", "optimizer.momentum=0", "optimizer.lr=0.3"],
            "momentum": ["optimizer.kind=sgd", "optimizer.lr=0.1"],
            "nesterov": ["optimizer.kind=sgd", "optimizer.nesterov=true", "optimizer.lr=0.1"],
        }.items():
            with self.subTest(name=name):
                self.train(name, *settings)
                self.train(f"{name}-3", *settings, ranks=3)
                self.assertEqual(self.hash(name), self.hash(f"{name}-3"))
                # Four classes: chance is 0.25, and 60 steps on bright bars go far beyond it.
                self.assertGreater(self.status(name)["eval"]["accuracy"], 0.6)

    def test_schedules(self):
        lr, total = 0.01, 60
        for kind, settings, expected in (
            ("constant", ["schedule.warmup_steps=0"], lambda step: lr),
            ("linear", ["schedule.warmup_steps=0"], lambda step: lr * (1 - step / total)),
            ("cosine", ["schedule.warmup_steps=0"], lambda step: lr * (1 + math.cos(math.pi * step / total)) / 2),
            ("step", ["schedule.warmup_steps=0", "schedule.step_every=20", "schedule.step_factor=0.5"],
             lambda step: lr * 0.5 ** (step // 20)),
        ):
            with self.subTest(kind=kind):
                self.train(kind, f"schedule.kind={kind}", *settings)
                rates = self.column(kind, "lr")
                self.assertEqual(len(rates), total)
                for step, rate in enumerate(rates):
                    # Rounding to float32 is off by at most 6e-8 of the rate, which is at most lr.
                    self.assertAlmostEqual(rate, expected(step), delta=lr * 1e-7)

    def test_warmup_stable_decay(self):
        self.train("wsd", "schedule.kind=wsd", "schedule.warmup_steps=10", "schedule.decay_steps=20")
        rates = self.column("wsd", "lr")
        self.assertEqual(rates[:10], sorted(rates[:10]))
        self.assertLess(rates[0], rates[9])
        self.assertEqual(len(set(rates[10:40])), 1)
        self.assertEqual(rates[41:], sorted(rates[41:], reverse=True))
        self.assertLess(rates[-1], rates[20] / 5)

    def test_accumulation(self):
        """Memory for activations falls; ranks still do not matter."""
        self.train("two", "train.accumulation=2")
        self.train("two-5", "train.accumulation=2", ranks=5)
        self.assertEqual(self.hash("two"), self.hash("two-5"))

    def test_model_options(self):
        settings = ["model.activation=gelu", "model.residual=true", "model.hidden=[24,24,24]",
                    "train.label_smoothing=0.1"]
        self.train("one", *settings)
        self.train("four", *settings, ranks=4)
        self.assertEqual(self.hash("one"), self.hash("four"))

    def test_bf16(self):
        """Where the processor lacks these products the program says so."""
        result = harness.finish(harness.start(
            ["train", "-q", "-c", "config.yaml", "--run-dir", "one", "--set", "runtime.precision=bf16"], 0, self.dir))
        if result.code == 69:
            self.skipTest(result.stderr.strip())
        self.assertEqual(result.code, 0, str(result))
        self.train("three", "runtime.precision=bf16", ranks=3)
        self.assertEqual(self.hash("one"), self.hash("three"))
        self.assertGreater(self.status("one")["eval"]["accuracy"], 0.6)

    def test_fp16(self):
        """The same steps are skipped while the scale comes down, and the same bits learn."""
        for device, steps in (("ref", 20), ("cpu", 100)):
            settings = [f"runtime.device={device}", "runtime.precision=fp16", f"train.max_steps={steps}",
                        "train.loss_scale=16777216"]
            runs = [f"{device}-{ranks}" for ranks in (1, 2, 3)]
            for ranks, run in enumerate(runs, 1):
                self.train(run, *settings, ranks=ranks)
            self.assertEqual(len({self.hash(run) for run in runs}), 1)
            skipped = [[event["step"] for event in self.events(run, "skip")] for run in runs]
            self.assertEqual(skipped, [list(range(1, len(skipped[0]) + 1))] * 3)
            self.assertGreater(len(skipped[0]), 0)
        self.assertGreater(self.status("cpu-1")["eval"]["accuracy"], 0.6)
        # A checkpoint needs no more settings than it brings.
        self.run_lockstep("eval", "--checkpoint", "cpu-1", ranks=2)

    def test_reference_device(self):
        self.train("one", "runtime.device=ref", "train.max_steps=20")
        self.train("two", "runtime.device=ref", "train.max_steps=20", ranks=2)
        self.assertEqual(self.hash("one"), self.hash("two"))

    def test_fast_reduction(self):
        """Bits may change with the number of ranks, learning may not."""
        self.train("fast", "collectives.reduction=fast", ranks=3)
        self.assertGreater(self.status("fast")["eval"]["accuracy"], 0.6)

    def test_max_epochs(self):
        # 2.5 epochs of 600 samples in batches of 64.
        steps = math.ceil(2.5 * 600 / 64)
        for warmup, told in ((steps - 1, False), (steps, True)):
            result = self.train(f"epochs-{warmup}", "train.max_steps=0", "train.max_epochs=2.5", f"schedule.warmup_steps={warmup}")
            self.assertEqual(self.status(f"epochs-{warmup}")["step"], steps)
            self.assertEqual(f"schedule.warmup_steps is {steps}, and the run ends after {steps} steps" in result.stderr, told)

    def test_early_stopping(self):
        """A rate of zero never gets better: the first evaluation is the best, and patience ends the run."""
        for ranks in (0, 3):
            run = f"early-{ranks}"
            self.train(run, "optimizer.lr=0", "optimizer.weight_decay=0", "eval.every=5", "train.early_stopping=2",
                       ranks=ranks)
            self.assertEqual(self.status(run)["step"], 15)
            self.assertEqual(self.status(run)["state"], "completed")

    def test_retention(self):
        self.train("kept", "checkpoint.every=5", "checkpoint.keep_last=2", "checkpoint.keep_every=20")
        names = sorted(path.name for path in (self.dir / "kept/checkpoints").glob("step-*"))
        self.assertEqual(names, [f"step-{step:08d}" for step in (20, 40, 55, 60)])

    def test_keep_best(self):
        self.train("best", "checkpoint.every=10", "checkpoint.keep_last=2", "checkpoint.keep_best=true",
                   "eval.every=10", "optimizer.lr=0", "optimizer.weight_decay=0")
        names = sorted(path.name for path in (self.dir / "best/checkpoints").glob("step-*"))
        self.assertEqual(names, [f"step-{step:08d}" for step in (10, 50, 60)])

    def test_diverged(self):
        result = self.train("diverged", "optimizer.kind=sgd", "optimizer.lr=1000", "optimizer.clip_norm=0",
                            "schedule.kind=constant", "schedule.warmup_steps=0", "train.max_skipped=3",
                            "train.max_steps=1000", "optimizer.momentum=0.99", ranks=3, code=70)
        self.assert_refused(result, "diverged", "optimizer.lr")
        self.assertEqual(self.status("diverged")["state"], "diverged")

    def test_init_from(self):
        self.train("first")
        self.train("second", "train.init_from=first/checkpoints/step-00000060", "train.max_steps=1",
                   "schedule.warmup_steps=0", "optimizer.lr=0", "optimizer.weight_decay=0")
        # A rate of zero leaves the weights as they are.
        self.assertEqual(self.status("second")["eval"], self.status("first")["eval"])

    def test_resume_from_another_run(self):
        """The checkpoint becomes the run's own, also where nothing is left to train; the run's others move away."""
        self.train("first")
        for step in (40, 60):
            self.train("second", arguments=["--resume", f"first/checkpoints/step-{step:08d}"], ranks=3)
            self.assertEqual(self.status("second")["checkpoint"], "second/checkpoints/step-00000060")
            self.assertEqual(self.hash("second"), self.hash("first"))
            self.run_lockstep("checkpoint", "verify", f"second/checkpoints/step-{step:08d}")
        self.train("first", "train.seed=2", arguments=["--resume", "never"])
        self.train("second", "train.seed=2", arguments=["--resume", "first/checkpoints/step-00000040"])
        self.assertEqual(self.hash("second"), self.hash("first"))
        left = sorted(path.name for path in (self.dir / "second/checkpoints").glob("step-*"))
        self.assertEqual(left, ["step-00000040", "step-00000060"])

    def test_finished_run_is_left_alone(self):
        self.train("run")
        expected = self.hash("run")
        self.train("run", ranks=2)
        self.assertEqual(self.hash("run"), expected)
        self.assertEqual(sorted(self.losses("run")), list(range(1, 61)))

    def test_never_archives(self):
        self.train("run")
        expected = self.hash("run")
        self.train("run", "train.seed=2", arguments=["--resume", "never"])
        self.assertNotEqual(self.hash("run"), expected)
        self.assertEqual(self.hash("run/archive/001"), expected)

    def test_longer_run_goes_on(self):
        """More steps than before: the run goes on, and says that its bits are others."""
        self.train("run")
        result = self.train("run", "train.max_steps=80")
        self.assertIn("train.max_steps", result.stderr)
        self.assertEqual(sorted(self.losses("run")), list(range(1, 81)))


class Stopped(Modes):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def test_max_time(self):
        self.write("config.yaml", CONFIG.replace("max_steps: 60", "max_steps: 100000000").replace("every: 1}",
                                                                                                "every: 1000}"))
        for ranks in (0, 2):
            run = f"time-{ranks}"
            result = self.train(run, "train.max_time=0.3", ranks=ranks, code=75)
            self.assert_refused(result, "train.max_time")
            status = self.status(run)
            self.assertEqual(status["state"], "preempted")
            self.run_lockstep("checkpoint", "verify", status["checkpoint"])
            # Each attempt has the whole time again.
            self.train(run, "train.max_time=0.3", ranks=3 - ranks, code=75)
            self.assertGreater(self.status(run)["step"], status["step"])

    def test_signals(self):
        """Every signal that asks to stop: a durable checkpoint, exit code 75, and the same bits after a resume."""
        self.train("whole", ranks=2)
        expected = self.hash("whole"), self.losses("whole")
        for ranks, number in ((2, signal.SIGUSR1), (3, signal.SIGUSR2), (0, signal.SIGTERM), (0, signal.SIGINT)):
            with self.subTest(ranks=ranks, signal=number):
                run = f"stopped-{number}"
                self.take_time(step=200, since=10)
                process = harness.start(["train", "-q", "-c", "config.yaml", "--run-dir", run], ranks, self.dir,
                                        self.slow())
                harness.wait_for_step(self, process, run, 10)
                process.send_signal(number)
                result = harness.finish(process)
                self.assertEqual(result.code, 75, str(result))
                self.assert_refused(result, "run again")
                self.assertEqual(self.status(run)["state"], "preempted")
                self.run_lockstep("checkpoint", "verify", run)
                self.train(run, ranks=5 - ranks)
                self.assertEqual((self.hash(run), self.losses(run)), expected)

    def test_signal_before_the_ranks_have_met(self):
        """A rank that still waits for another one to start notes the signal."""
        train = [harness.LOCKSTEP, "train", "-q", "-c", "config.yaml", "--run-dir", "early"]
        wait = 'while [ ! -e go ]; do sleep 0.05; done; exec "$@"'
        process = subprocess.Popen(
            [harness.MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "1", *train, ":", "-np", "1", "sh", "-c",
             wait, "sh", *train], cwd=self.dir, env=harness.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.addCleanup(harness.kill_family, process.pid)
        end = time.monotonic() + harness.DEADLINE
        while not (catching := [pid for pid in harness.children(process.pid) if self.catches(pid, signal.SIGUSR1)]):
            self.assertLess(time.monotonic(), end, "no rank catches the signal while it waits")
            time.sleep(0.01)
        os.kill(catching[0], signal.SIGUSR1)
        self.write("go", "")
        result = harness.finish(process)
        self.assertEqual(result.code, 75, str(result))
        self.assertEqual(self.status("early")["step"], 1)

    def test_ranks_that_never_meet(self):
        """A rank that hangs before the ranks have met, here one that is none, ends the job."""
        process = subprocess.Popen(
            [harness.MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "1", harness.LOCKSTEP, "train", "-q", "-c",
             "config.yaml", "--run-dir", "alone", "--set", "collectives.timeout=1", ":", "-np", "1", "sleep", "1000"],
            cwd=self.dir, env=harness.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True)
        result = harness.finish(process)
        self.assertEqual(result.code, 124, str(result))
        self.assert_refused(result, "did not meet within 1 s")

    def catches(self, pid, number):
        """Whether a process is a rank, not a copy of its launcher on the way to one, and has a handler for a signal."""
        try:
            if os.path.realpath(f"/proc/{pid}/exe") != os.path.realpath(harness.LOCKSTEP):
                return False
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        except OSError:
            return False
        return bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)

    def test_killed(self):
        """kill -9 of a rank: the job ends, and the run goes on from its newest checkpoint with the same bits."""
        self.train("whole", ranks=2)
        self.take_time(step=100, since=21)
        process = harness.start(["train", "-q", "-c", "config.yaml", "--run-dir", "killed"], 3, self.dir, self.slow())
        harness.wait_for_step(self, process, "killed", 25)
        ranks = harness.children(process.pid)
        self.assertEqual(len(ranks), 3)
        harness.kill_family(ranks[1])
        result = harness.finish(process)
        self.assertNotEqual(result.code, 0)
        deadline = time.monotonic() + harness.DEADLINE
        while any(harness.alive(rank) for rank in ranks):
            self.assertLess(time.monotonic(), deadline, "ranks outlived the job")
            time.sleep(0.05)
        self.train("killed", ranks=4)
        self.assertEqual(self.status("killed")["attempt"], 2)
        self.assertEqual(self.hash("killed"), self.hash("whole"))
        self.assertEqual(self.losses("killed"), self.losses("whole"))
        self.assert_no_leftovers()


    def test_killed_before_a_checkpoint(self):
        """There is nothing to resume from: the run starts again, and each step has one line of metrics."""
        process = harness.start(["train", "-q", "-c", "config.yaml", "--run-dir", "killed", "--set",
                                 "checkpoint.every=0", "--set", "train.max_steps=100000000"], 2, self.dir)
        harness.wait_for_step(self, process, "killed", 50)
        harness.kill_family(process.pid)
        process.communicate()
        self.train("killed", "train.max_steps=30")
        lines = (self.dir / "killed/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        self.assertEqual([json.loads(line)["step"] for line in lines], list(range(1, 31)))


class Tables(Modes):
    def test_binary(self):
        import_table(self)
        self.write("config.yaml", TABLE)
        for name, loss in (("cross", "cross_entropy"), ("binary", "binary_cross_entropy")):
            self.train(name, f"train.loss={loss}", "eval.metric=roc_auc")
            self.train(f"{name}-3", f"train.loss={loss}", "eval.metric=roc_auc", ranks=3)
            self.assertEqual(self.hash(name), self.hash(f"{name}-3"))
            found = self.status(name)["eval"]
            # The label's noise is a fifth of the score's spread: a linear rule already comes to 0.95.
            self.assertGreater(found["roc_auc"], 0.9)
            self.assertGreater(found["accuracy"], 0.8)

    def test_regression(self):
        import_table(self, kind="regression")
        self.write("config.yaml", TABLE)
        self.train("one")
        self.train("two", ranks=2)
        self.assertEqual(self.hash("one"), self.hash("two"))
        found = self.status("one")["eval"]
        self.assertNotIn("accuracy", found)
        # Targets without noise whose variance is about 7.
        self.assertLess(found["loss"], 1.0)


if __name__ == "__main__":
    unittest.main()
