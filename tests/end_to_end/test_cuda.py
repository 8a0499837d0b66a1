"""Training on GPUs: the same bits on any number of ranks, over every transport, with and without graphs.

Skips (77) where runtime.device=cuda says that there is no GPU. An emulated GPU can be several, can have little memory,
and can be made to run its threads and streams in other orders; a real one is taken as it is.
"""

import json
import re
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

    def test_shards(self):
        """Gradients and moments of a shard alone, and all of them, over both transports."""
        expected = self.train("alone")
        for backend, ranks, mode in (("nccl", 3 if EMULATED else 1, "state+gradients"), ("mpi", 2, "state+gradients"),
                                     ("nccl", 2 if EMULATED else 1, "none")):
            found = self.train(f"{backend}-{ranks}-{mode}", f"collectives.backend={backend}", f"optimizer.shard={mode}", ranks=ranks,
                               env={"EMULATED_GPUS": str(ranks if backend == "nccl" else 1)})
            self.assertEqual(found, expected)

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


def main():
    """The tests of the calling program, or exit code 77."""
    reason = unavailable()
    if reason:
        print(reason)
        sys.exit(77)
    harness.main()


if __name__ == "__main__":
    main()
