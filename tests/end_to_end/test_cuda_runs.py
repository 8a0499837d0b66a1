"""Runs on GPUs: the search for a loss scale, algorithms that are kept, memory, and what is refused.

Skips (77) where runtime.device=cuda says that there is no GPU.
"""

import importlib.util
import json
import re
import subprocess
import unittest

import harness
from test_cuda import BAD_CONFIG, DIVERGED, EMULATED, GPUS, UNAVAILABLE, Gpu, main, only_emulated


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


if __name__ == "__main__":
    main()
