"""The same bits on any number of ranks, also when training is stopped and resumed on another number."""

import random
import signal
import unittest

import harness
from harness import CONFIG, Case, import_images

RANKS = (1, 2, 3, 4, 5, 7, 8)


class SameBits(Case):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *arguments, code=0):
        return self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run, *arguments, ranks=ranks, code=code)

    def evaluations(self, run):
        """What evaluations found, without when and on which attempt."""
        return [{key: value for key, value in event.items() if key not in ("time", "attempt")}
                for event in self.events(run, "eval")]

    def test_any_number_of_ranks(self):
        self.train("alone", 0)
        expected = self.hash("alone"), self.losses("alone"), self.evaluations("alone")
        self.assertEqual(sorted(expected[1]), list(range(1, 61)))
        self.assertEqual([event["step"] for event in expected[2]], [20, 40, 60, 60])
        for ranks in RANKS:
            with self.subTest(ranks=ranks):
                run = f"ranks-{ranks}"
                self.train(run, ranks)
                self.assertEqual(self.hash(run), expected[0])
                self.assertEqual(self.losses(run), expected[1])
                self.assertEqual(self.evaluations(run), expected[2])

    def test_more_ranks_than_a_direct_exchange_takes(self):
        """Of one host they read each other's sums in place all the same; messages go by recursive halving."""
        settings = [word for setting in ("train.lanes=64", "train.max_steps=6", "checkpoint.every=0", "eval.every=0")
                    for word in ("--set", setting)]
        self.train("alone", 0, *settings)
        for backend in ("shared", "mpi"):
            with self.subTest(backend=backend):
                self.train(backend, 40, *settings, "--set", f"collectives.backend={backend}")
                self.assertEqual((self.hash(backend), self.losses(backend)), (self.hash("alone"), self.losses("alone")))

    def test_steps_in_between(self):
        """Checkpoints on the way are the same, too."""
        self.train("one", 1)
        self.train("three", 3)
        for step in (20, 40, 60):
            path = f"checkpoints/step-{step:08d}"
            self.assertEqual(self.hash(f"one/{path}"), self.hash(f"three/{path}"))
        self.assertNotEqual(self.hash("one/checkpoints/step-00000020"), self.hash("one/checkpoints/step-00000040"))

    def test_resume_from_any_checkpoint(self):
        self.train("whole", 2)
        expected = self.hash("whole"), self.losses("whole")
        self.train("part", 3)
        for step, ranks in ((40, 5), (20, 1)):
            self.train("part", ranks, "--resume", f"part/checkpoints/step-{step:08d}")
            self.assertEqual(self.hash("part"), expected[0])
            self.assertEqual(self.losses("part"), expected[1])

    def stop_at_random(self, run, ranks, rng):
        """Starts or resumes a run, and asks it to stop after a random step."""
        step, attempt = rng.randrange(1, 160), harness.attempts(self, run) + 1
        self.take_time(step=200, since=step)
        process = harness.start(["train", "-c", "config.yaml", "--run-dir", run], ranks, self.dir, self.slow())
        harness.wait_for_step(self, process, run, step, attempt)
        process.send_signal(signal.SIGUSR1)
        result = harness.finish(process)
        self.assertEqual(result.code, 75, str(result))

    def test_stopped_at_random(self):
        self.write("config.yaml", CONFIG.replace("max_steps: 60", "max_steps: 200"))
        self.train("undisturbed", 2)
        expected = self.hash("undisturbed"), self.losses("undisturbed")
        for seed in range(2):
            rng, run = random.Random(seed), f"disturbed-{seed}"
            for _ in range(4):
                self.stop_at_random(run, rng.choice(RANKS), rng)
            self.train(run, rng.choice(RANKS))
            self.assertEqual(self.status(run)["state"], "completed")
            self.assertEqual(self.hash(run), expected[0])
            self.assertEqual(self.losses(run), expected[1])

    def test_augmented(self):
        """An image's augmentation hangs on its position in the stream, not on who reads it, how, or from where on."""
        self.write("config.yaml", CONFIG.replace("path: images.h5", "path: images.h5, crop_padding: 2, flip: true"))
        self.train("alone", 0)
        expected = self.hash("alone"), self.losses("alone")
        for ranks in (3, 8):
            self.train(f"ranks-{ranks}", ranks, "--set", "data.workers=3", "--set", "guard.recompute_every=7")
            self.assertEqual((self.hash(f"ranks-{ranks}"), self.losses(f"ranks-{ranks}")), expected)
        self.train("ranks-3", 2, "--resume", "ranks-3/checkpoints/step-00000020")
        self.assertEqual((self.hash("ranks-3"), self.losses("ranks-3")), expected)
        more = [word for option in ("crop_padding=0", "resized_crop=0.5", "brightness=0.3", "contrast=0.3", "cutout=3",
                                    "mixup=0.4") for word in ("--set", f"data.{option}")]
        for ranks in (1, 5):
            self.train(f"more-{ranks}", ranks, *more, "--set", f"data.workers={ranks}")
        self.assertEqual(self.hash("more-1"), self.hash("more-5"))
        self.assertNotEqual(self.hash("more-1"), expected[0])
        self.train("plain", 1, "--set", "data.crop_padding=0", "--set", "data.flip=false")
        self.assertNotEqual(self.hash("plain"), expected[0])

    def test_other_seed_other_bits(self):
        """The hash does tell runs apart."""
        self.train("one", 1, "--set", "train.max_steps=10")
        self.train("other", 1, "--set", "train.max_steps=10", "--set", "train.seed=2")
        self.assertNotEqual(self.hash("one"), self.hash("other"))


if __name__ == "__main__":
    unittest.main()
