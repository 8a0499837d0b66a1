"""Training on GPUs: the same bits on any number of ranks, over every transport, with and without graphs.

Skips (77) where runtime.device=cuda says that there is no GPU. An emulated GPU can be several, can have little memory,
and can be made to run its threads and streams in other orders; a real one is taken as it is.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import unittest

import harness
from harness import CONFIG, Case, import_images

BAD_CONFIG, UNAVAILABLE, DIVERGED = 78, 69, 70

# Several buckets, so that they leave while others are still computed; nothing for the host to look at in between.
CUDA = """
runtime: {device: cuda, precision: fp32}
collectives: {timeout: 60, bucket_mb: 0.0625}
log: {every: 1000}
"""
CONFIG = re.sub(r"(?m)^(runtime|collectives|log):.*\n", "", CONFIG) + CUDA
CONFIG = CONFIG.replace("hidden: [32, 16]", "hidden: [160, 96, 160]").replace("max_steps: 60", "max_steps: 30")
CONFIG = CONFIG.replace("every: 20, keep_last", "every: 10, keep_last").replace("every: 20, quick", "every: 15, quick")


def gpus():
    """What the machine has, as doctor tells it."""
    result = harness.finish(harness.start(["doctor", "--json"]))
    checks = json.loads(result.stdout)["checks"]
    return next(check["found"] for check in checks if check["check"] == "gpu")


GPUS = gpus()
EMULATED = "Emulated GPU" in GPUS


def only_emulated(test):
    return unittest.skipUnless(EMULATED, "needs the emulated GPU")(test)


class Gpu(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def train(self, run, *settings, ranks=0, code=0, arguments=(), env=None):
        options = [part for setting in settings for part in ("--set", setting)]
        result = self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", run, *options, *arguments,
                                   ranks=ranks, code=code, env=env)
        return self.hash(run) if code == 0 else result

    def manifest(self, run, step):
        path = self.dir / run / f"checkpoints/step-{step:08d}/manifest.json"
        return json.loads(path.read_text(encoding="utf-8"))

    def skips(self, run):
        return [(event["step"], event["loss_scale"]) for event in self.events(run, "skip")]


class SameBits(Gpu):
    """One hash for a precision."""

    def over_ranks_and_transports(self, precision, ways, *settings):
        settings = [f"runtime.precision={precision}", *settings]
        expected = self.train("alone", *settings)
        evaluation = self.status("alone")["eval"]
        self.assertGreater(evaluation["accuracy"], 0.6)  # four classes: it did learn
        for ranks, backend in ways:
            with self.subTest(ranks=ranks, backend=backend):
                run, count = f"{backend}-{ranks}", ranks if backend == "nccl" else 1
                found = self.train(run, *settings, f"collectives.backend={backend}", ranks=ranks,
                                   env={"EMULATED_GPUS": str(count)})
                self.assertEqual(found, expected)
                self.assertEqual(self.status(run)["eval"], evaluation)
                environment = json.loads((self.dir / run / "env.json").read_text(encoding="utf-8"))
                if ranks > 1:  # one alone has nothing to carry
                    self.assertEqual(environment["communicator"], backend)

    # Transports carry what they are given, so one precision goes all ways, and the others each transport once.
    FEW = [(3, "mpi"), (2 if EMULATED else 1, "nccl")]

    def test_fp32(self):
        self.over_ranks_and_transports("fp32", self.FEW)

    def test_bf16(self):
        self.over_ranks_and_transports("bf16", [(ranks, "mpi") for ranks in (2, 3, 4)] + [
            (ranks, "nccl") for ranks in ((1, 2, 3, 4) if EMULATED else (1,))])

    def test_fp16(self):
        self.over_ranks_and_transports("fp16", self.FEW)

    def test_sums_in_bf16(self):
        self.over_ranks_and_transports("bf16", self.FEW, "collectives.wire=bf16")

    def test_buckets_by_measurement(self):
        """Whatever is chosen, and nothing of the rehearsal is left."""
        settings = ["model.hidden=[700,700]", "train.max_steps=6", "checkpoint.every=6", "eval.every=0"]
        expected = self.train("alone", *settings)
        for ranks, backend in self.FEW:
            with self.subTest(ranks=ranks, backend=backend):
                found = self.train(backend, *settings, f"collectives.backend={backend}", "collectives.bucket_mb=auto",
                                   ranks=ranks, env={"EMULATED_GPUS": str(ranks if backend == "nccl" else 1)})
                self.assertEqual(found, expected)
                self.assertEqual(len(self.events(backend, "buckets")), ranks > 1)

    def test_graphs_and_the_late_read_change_nothing(self):
        """Also where microbatches are added up, whose number is odd, so that graphs meet both sets of memory."""
        for name, settings in {"plain": [], "parts": ["train.accumulation=2", "train.lanes=4"],
                               "one": ["train.lanes=1"], "odd": ["train.lanes=1", "train.batch=63",
                                                                 "train.accumulation=3"]}.items():
            with self.subTest(name=name):
                expected = self.train(name, *settings)
                self.assertEqual(self.train(f"{name}-plain", *settings, "runtime.graphs=false"), expected)
                self.assertEqual(self.train(f"{name}-read", *settings, "log.every=1"), expected)
                self.assertEqual(sorted(self.losses(f"{name}-read")), list(range(1, 31)))

    def test_options_of_the_model(self):
        settings = ["model.activation=gelu", "model.residual=true", "model.hidden=[96,96,96]", "runtime.precision=bf16",
                    "train.label_smoothing=0.1", "optimizer.kind=sgd"]
        expected = self.train("one", *settings)
        self.assertEqual(self.train("two", *settings, "runtime.graphs=false", ranks=2), expected)

    def test_guards(self):
        """Steps that are left out or done again, read late, and lanes that two ranks compute: one hash, and no alarm."""
        window = ["guard.window=8", "guard.limit=100", "train.accumulation=2"]
        skip = ["guard.spike=1.5", *window]
        rollback = ["guard.spike=3", "guard.action=rollback", "checkpoint.every=4", *window]
        for name, settings, ranks, more in (("skip", skip, 2, "runtime.graphs=false"),
                                            ("rollback", rollback, 3, "log.every=1")):
            with self.subTest(name=name):
                expected = self.train(name, *settings)
                events = [event["step"] for event in self.events(name, name)]
                self.assertTrue(events)
                found = self.train("ranks", *settings, more, "guard.recompute_every=2", ranks=ranks,
                                   arguments=["--resume", "never"])
                self.assertEqual(found, expected)
                self.assertEqual([event["step"] for event in self.events("ranks", name)], events)
                self.assertEqual(self.events("ranks", "wrong_arithmetic"), [])

    @only_emulated
    def test_any_order_that_is_legal(self):
        """Threads, blocks and nodes of graphs in other orders."""
        settings = ["runtime.precision=bf16", "collectives.backend=nccl"]
        expected = self.train("one", *settings, ranks=1)
        for seed in (1, 2):
            found = self.train(f"seed-{seed}", *settings, ranks=2,
                               env={"EMULATED_GPUS": "2", "EMULATED_GPU_SEED": str(seed)})
            self.assertEqual(found, expected)

    def test_resume_on_other_ranks(self):
        expected = self.train("run", ranks=2)
        for step, ranks in ((20, 3), (10, 1)):
            found = self.train("run", ranks=ranks, arguments=["--resume", f"run/checkpoints/step-{step:08d}"])
            self.assertEqual(found, expected)

    def test_stopped_in_the_middle(self):
        """All ranks stop after the same step, and going on changes no bit."""
        expected = self.train("whole")
        self.take_time(step=200, since=5)
        process = harness.start(["train", "-q", "-c", "config.yaml", "--run-dir", "run", "--set", "log.every=5"], 2,
                                self.dir, self.slow())
        harness.wait_for_step(self, process, "run", 5)
        process.send_signal(harness.signal.SIGUSR1)
        result = harness.finish(process)
        self.assertEqual(result.code, 75, str(result))
        self.assertEqual(self.train("run", "log.every=5", ranks=3), expected)


class LossScale(Gpu):
    """fp16: the scale is a part of the state, and looking for it is no divergence."""

    # The gradient of a sample's loss is up to 1 / train.batch, and FP16 ends at 65504.
    HUGE = ["runtime.precision=fp16", "train.loss_scale=16777216", "train.max_skipped=1", "train.batch=8"]

    def test_search_skips_the_same_steps(self):
        expected = self.train("one", *self.HUGE)
        skips, state = self.skips("one"), self.manifest("one", 30)["state"]
        self.assertGreater(len(skips), 2)  # more in a row than max_skipped
        self.assertEqual(skips, [(i + 1, 2.0 ** (24 - i)) for i in range(len(skips))])
        self.assertEqual(state["loss_scale"], 2.0 ** (24 - len(skips)))
        self.assertEqual(state["updates"], 30 - len(skips))
        self.assertEqual(self.train("three", *self.HUGE, ranks=3), expected)
        self.assertEqual(self.skips("three"), skips)
        # In the midst of the search as well.
        self.train("search", *self.HUGE, "train.max_steps=2", "schedule.warmup_steps=1")
        self.assertEqual(self.manifest("search", 2)["state"]["loss_scale"], 2.0 ** 22)

    def test_growth(self):
        settings = ["runtime.precision=fp16", "train.loss_scale=4"]
        self.train("grows", *settings, "train.loss_scale_growth=5", "log.every=1")
        lines = (self.dir / "grows/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        scales = [json.loads(line)["loss_scale"] for line in lines]
        self.assertEqual(scales, [4.0 * 2 ** (step // 5) for step in range(1, 31)])
        self.train("stays", *settings, "train.loss_scale_growth=0")
        self.assertEqual(self.manifest("stays", 30)["state"]["loss_scale"], 4)

    def test_other_precisions_on_the_way(self):
        settings = ["train.loss_scale=1024", "train.loss_scale_growth=0"]
        for steps, precision, scale in ((10, "fp16", 1024), (20, "fp32", 1), (30, "fp16", 1024)):
            self.train("run", *settings, f"runtime.precision={precision}", f"train.max_steps={steps}")
            self.assertEqual(self.manifest("run", steps)["state"]["loss_scale"], scale)

    def test_divergence_is_not_taken_for_a_search(self):
        result = self.train("diverged", "runtime.precision=fp16", "optimizer.kind=sgd", "optimizer.lr=1000",
                            "optimizer.clip_norm=0", "schedule.kind=constant", "schedule.warmup_steps=0",
                            "train.max_skipped=3", "train.max_steps=1000", "optimizer.momentum=0.99", ranks=2,
                            code=DIVERGED)
        self.assert_refused(result, "diverged")
        skips = [step for step, _ in self.skips("diverged")]
        self.assertEqual(len(skips), len(set(skips)))  # each once

    def test_a_scale_that_is_kept_is_named(self):
        """No search brings it down, so all steps would be skipped: the end, and the line says why."""
        result = self.train("kept", "runtime.precision=fp16", "train.loss_scale=16777216", "train.loss_scale_growth=0",
                            "train.max_skipped=3", ranks=2, code=DIVERGED)
        self.assert_refused(result, "after 4 skipped steps", "lower train.loss_scale")
        self.assertEqual(self.skips("kept"), [(step, 16777216) for step in range(1, 5)])


class Algorithms(Gpu):
    def test_a_resume_keeps_the_choice(self):
        """What rank 0 measured is in the run and its checkpoints; a resume measures nothing again."""
        first, other = {"EMULATED_CUBLASLT_FASTEST": "2"}, {"EMULATED_CUBLASLT_FASTEST": "1"}
        settings = ["runtime.autotune=true"]
        expected = self.train("run", *settings, ranks=2, env=first)
        kept = (self.dir / "run/algorithms.txt").read_text(encoding="utf-8")
        self.assertGreater(len(kept.splitlines()), 5)
        self.assertEqual(self.manifest("run", 10)["algorithms"], kept)
        self.assertEqual(len(self.events("run", "autotune")), 1)
        for ranks in (1, 3):
            found = self.train("run", *settings, ranks=ranks, env=other,
                               arguments=["--resume", "run/checkpoints/step-00000010"])
            self.assertEqual(found, expected)
        self.assertEqual((self.dir / "run/algorithms.txt").read_text(encoding="utf-8"), kept)
        self.assertEqual(len(self.events("run", "autotune")), 1)
        # An attempt that begins again has the choice of the first one; another run may have another.
        for path in (self.dir / "run/checkpoints").glob("step-*"):
            path.rename(self.dir / path.name)
        self.assertEqual(self.train("run", *settings, ranks=2, env=other), expected)
        plain = self.train("plain")
        self.assertNotIn("algorithms", self.manifest("plain", 10))
        self.assertFalse((self.dir / "plain/algorithms.txt").exists())
        if EMULATED:  # whose algorithms have bits of their own
            self.assertNotEqual(self.train("another", *settings, env=other), expected)
            self.assertNotEqual(plain, expected)

    def test_damaged(self):
        """The line names the file, and without it the run measures anew."""
        path = self.dir / "run/algorithms.txt"
        path.parent.mkdir()
        self.write("run/algorithms.txt", "nonsense\n")
        result = self.train("run", "runtime.autotune=true", ranks=2, code=65)
        self.assert_refused(result, "run/algorithms.txt", "line 1", "remove the file")
        path.unlink()
        self.train("run", "runtime.autotune=true", ranks=2)
        self.assertGreater(len(path.read_text(encoding="utf-8").splitlines()), 5)

    def test_evaluation_outside_of_the_run(self):
        """eval computes with the algorithms that training had."""
        for name, settings in {"chosen": ["runtime.autotune=true"], "first": []}.items():
            self.train(name, *settings, env={"EMULATED_CUBLASLT_FASTEST": "2"})
            found = json.loads(self.run_lockstep("eval", "--checkpoint", name, ranks=2).stdout)
            for key, value in self.status(name)["eval"].items():
                # Printed with nine digits there, with seventeen in status.json.
                if isinstance(value, float):
                    self.assertAlmostEqual(found[key], value, delta=1e-8 * max(1, abs(value)))
                else:
                    self.assertEqual(found[key], value)


class Refused(Gpu):
    @only_emulated
    def test_out_of_memory(self):
        result = self.train("run", "model.hidden=[3000,3000]", "train.lanes=1", code=UNAVAILABLE,
                            env={"EMULATED_GPU_MEMORY": str(160 << 20)})
        self.assert_refused(result, "out of memory", "asked for", "free", "the run needs about")
        # The estimate is what --dry-run prints.
        said = float(re.search(r"the run needs about ([0-9.]+) MiB", result.stderr).group(1))
        output = self.run_lockstep("train", "-c", "config.yaml", "--dry-run", "--set", "model.hidden=[3000,3000]",
                                   "--set", "train.lanes=1").stdout
        row = re.search(r"(?m)^ +0 +0-0.*$", output).group(0).split()
        self.assertAlmostEqual(float(row[-2]), said, delta=0.06)  # one digit behind the point, rounded here and there
        # Also of what the device itself wants.
        result = self.train("run", code=UNAVAILABLE, env={"EMULATED_GPU_MEMORY": str(8 << 20)})
        self.assert_refused(result, "64.0 MiB asked for, 8.0 MiB free of 8.0 MiB", "the run needs about", "--dry-run")

    @only_emulated
    def test_estimate_bounds_what_is_allocated(self):
        """With the estimate and a little for the device itself it fits, with half of that it does not."""
        settings = ["model.hidden=[1200,1200]", "train.lanes=2", "train.max_steps=4", "schedule.warmup_steps=1"]
        options = [part for setting in settings for part in ("--set", setting)]
        output = self.run_lockstep("train", "-c", "config.yaml", "--dry-run", *options).stdout
        estimate = float(re.search(r"(?m)^ +0 +0-1.*$", output).group(0).split()[-2])
        # Beside it: the step's small exchange, the outcome, alignment of allocations.
        self.train("fits", *settings, env={"EMULATED_GPU_MEMORY": str(int((estimate + 4) * (1 << 20)))})
        self.train("tight", *settings, env={"EMULATED_GPU_MEMORY": str(int((estimate / 2) * (1 << 20)))},
                   code=UNAVAILABLE)

    def test_two_ranks_on_one_gpu(self):
        if not EMULATED and not re.search(r"\b1 GPU\b", GPUS):
            self.skipTest("this machine has several GPUs")
        result = self.train("run", "collectives.backend=nccl", ranks=2, code=BAD_CONFIG, env={"EMULATED_GPUS": "1"})
        self.assert_refused(result, "ranks 0 and 1", "collectives.backend")
        expected = self.train("alone", "train.max_steps=10")
        self.assertEqual(self.train("shared", "train.max_steps=10", "collectives.backend=auto", ranks=2,
                                    env={"EMULATED_GPUS": "1"}), expected)

    @unittest.skipUnless(importlib.util.find_spec("h5py"), "no h5py to damage a file with")
    def test_damaged_rows_end_all_ranks(self):
        """The rank that meets them still takes part until all know, and they end with its sentence."""
        import h5py

        with h5py.File(self.dir / "images.h5", "r+") as file:
            file["train/y"][5] = 4
        for ranks in (0, 2):
            result = self.train(f"run-{ranks}", "log.every=1000", "checkpoint.every=0", "eval.every=0",
                                ranks=ranks, code=65)
            self.assert_refused(result, "images.h5")
            self.assertEqual(self.status(f"run-{ranks}")["state"], "failed")

    @unittest.skipUnless(importlib.util.find_spec("h5py"), "no h5py to damage a file with")
    def test_damaged_rows_of_one_rank(self):
        """Only its copy of the data is damaged: the others hear of it with the votes, and all end with its sentence."""
        import h5py

        content = (self.dir / "images.h5").read_bytes()
        self.write("damaged.h5", content)
        with h5py.File(self.dir / "damaged.h5", "r+") as file:
            file["train/y"][5] = 4
        train = [harness.LOCKSTEP, "train", "-q", "-c", "config.yaml", "--run-dir", "run", "--set", "log.every=1000",
                 "--set", "checkpoint.every=0", "--set", "eval.every=0", "--set", "train.max_steps=1000"]
        process = subprocess.Popen(
            [harness.MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "1", *train, ":", "-np", "1", *train, "--set",
             "data.path=damaged.h5"], cwd=self.dir, env=harness.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        result = harness.finish(process)
        self.assertEqual(result.code, 65, str(result))
        self.assert_refused(result, "rank 1: ", "damaged.h5")


def unavailable():
    """Why there is no device, or None."""
    test = Gpu()
    test.setUp()
    try:
        options = ["--set", "train.max_steps=6"]
        result = harness.finish(harness.start(["train", "-q", "-c", "config.yaml", "--run-dir", "probe", *options], 0,
                                              test.dir))
        return result.stderr.strip() if result.code == UNAVAILABLE else None
    finally:
        test.doCleanups()


if __name__ == "__main__":
    reason = unavailable()
    if reason:
        print(reason)
        sys.exit(77)
    harness.main()
