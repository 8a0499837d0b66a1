"""Losses that jump are skipped, or the run goes back and passes over their data: alike on any number of ranks. A
rank that computes wrong bits is named and its step computed again, a slow one is named.
"""

import json
import os
import random
import signal
import unittest

import harness
from harness import Case

DIVERGED, UNAVAILABLE, BAD_CONFIG = 70, 69, 78

# Every step is logged, so that the loss column shows what was done twice.
CONFIG = """\
model: {hidden: [16], dropout: 0.1}
data: {path: table.h5}
train: {batch: 32, lanes: 8, max_steps: 40}
optimizer: {lr: 0.002}
checkpoint: {every: 4, keep_last: 2}
guard: {spike: 20, window: 8, limit: 100}
eval: {every: 0}
log: {every: 1}
runtime: {precision: fp32}
collectives: {timeout: 60}
"""

# See wrong_products.c; sanitized builds have none.
LIBRARY = os.environ.get("WRONG_PRODUCTS_LIBRARY")


def poisoned_table(rows, poisoned, seed=1):
    """Numbers and what follows from them, but for a few rows that lie."""
    rng = random.Random(seed)
    lines = ["a,b,label"]
    for row in range(rows):
        a, b = rng.gauss(0, 1), rng.gauss(0, 1)
        label = 3000.0 if row in poisoned else a - 2 * b
        lines.append(f"{a:.6f},{b:.6f},{label:.6f}")
    return "\n".join(lines) + "\n"


class GuardCase(Case):
    """A table with lies in it, and runs on it."""

    def setUp(self):
        super().setUp()
        # An epoch is about 14 steps: each has steps with a row that lies.
        path = self.write("table.csv", poisoned_table(480, {100, 101, 300}))
        self.run_lockstep("data", "import", "csv", path, "-o", "table.h5", "--label", "label", "--regression")
        self.write("config.yaml", CONFIG)

    def train(self, run, ranks, *settings, code=0, **options):
        """Trains, or goes on."""
        arguments = [word for setting in settings for word in ("--set", setting)]
        return self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run, *arguments, ranks=ranks, code=code,
                                 **options)

    def guard_events(self, run, kind):
        """Events without when and on which attempt; a resume may come to one again."""
        found = {}
        for event in self.events(run, kind):
            found[event["step"]] = {key: value for key, value in event.items() if key not in ("time", "attempt")}
        return found

    def assert_same(self, run, other):
        """The same bits at the end, and on the way."""
        self.assertEqual(self.hash(run), self.hash(other))
        self.assertEqual(self.losses(run), self.losses(other))


class Spikes(GuardCase):
    """What a step does to which another one is no measure."""

    def disturb(self, run, seed, *settings):
        """Trains with stops at random steps, each time on other ranks."""
        rng = random.Random(seed)
        arguments = [word for setting in settings for word in ("--set", setting)]
        for _ in range(3):
            attempt, step = harness.attempts(self, run) + 1, rng.randrange(1, 30)
            self.take_time(step=200, since=step)
            process = harness.start(["train", "-c", "config.yaml", "--run-dir", run, *arguments],
                                    rng.choice((1, 2, 3, 5)), self.dir, self.slow())
            harness.wait_for_step(self, process, run, step, attempt)
            process.send_signal(signal.SIGUSR1)
            result = harness.finish(process)
            self.assertEqual(result.code, 75, str(result))
        self.train(run, 3, *settings)

    def test_skip(self):
        """A step that is left out, with all its numbers in an event."""
        self.train("alone", 0)
        skips = self.guard_events("alone", "skip")
        self.assertTrue(skips)
        for event in skips.values():
            self.assertEqual(event["reason"], "spike")
            self.assertGreater(max(event["loss_score"], event["grad_norm_score"]), 20)
        self.assertEqual(sorted(self.losses("alone")), list(range(1, 41)))
        self.train("ranks", 3)
        self.assert_same("ranks", "alone")
        self.assertEqual(self.guard_events("ranks", "skip"), skips)
        self.disturb("disturbed", 1)
        self.assert_same("disturbed", "alone")
        self.train("off", 0, "guard.spike=0")
        self.assertNotEqual(self.hash("off"), self.hash("alone"))

    def test_rollback(self):
        """Back to the checkpoint before, and past the data: the same one, whatever else was saved and removed."""
        back = "guard.action=rollback"
        self.train("alone", 0, back)
        rollbacks = self.guard_events("alone", "rollback")
        self.assertTrue(rollbacks)
        for step, event in rollbacks.items():
            self.assertEqual(event["to"], (step - 1) // 4 * 4)
            self.assertEqual(event["passed_samples"] % 32, 0)
        self.assertEqual(sorted(self.losses("alone")), list(range(1, 41)))
        info = self.run_lockstep("checkpoint", "info", "alone/checkpoints/step-00000040").stdout
        self.assertRegex(info, rf"rollbacks +{len(self.events('alone', 'rollback'))}\n")
        self.train("ranks", 2, back)
        self.assert_same("ranks", "alone")
        self.disturb("disturbed", 2, back)
        self.assert_same("disturbed", "alone")
        self.assert_no_leftovers()

    def test_rollback_to_the_beginning(self):
        """Before the first checkpoint that is due there is the one of step 0."""
        self.train("run", 2, "guard.action=rollback", "checkpoint.every=25", "train.max_steps=20")
        rollbacks = self.events("run", "rollback")
        self.assertTrue(rollbacks)
        self.assertEqual({event["to"] for event in rollbacks}, {0})
        self.assertEqual(sorted(self.losses("run")), list(range(1, 21)))

    def test_rollback_by_another_interval(self):
        """What is free elsewhere decides here where to go back, and a resume says so."""
        back = "guard.action=rollback"
        self.train("run", 0, back, "train.max_time=0.001", code=75)
        result = self.train("run", 2, back, "checkpoint.every=10", "train.max_skipped=5")
        for option in ("checkpoint.every", "train.max_skipped"):
            self.assertIn(f"resuming with another {option}", result.stderr)
        self.train("skip", 0, "train.max_time=0.001", code=75)
        self.assertNotIn("resuming with another", self.train("skip", 2, "checkpoint.every=10").stderr)

    def test_limit(self):
        """Too many are a run that diverges."""
        for action, word, ranks in (("skip", "spikes", 0), ("rollback", "rollbacks", 2)):
            result = self.train(action, ranks, f"guard.action={action}", "guard.limit=2", code=DIVERGED)
            self.assert_refused(result, f"2 {word} within 1000 steps", "guard.limit")
            self.assertEqual(self.status(action)["state"], "diverged")

    def test_refused(self):
        """Options that do not go together."""
        result = self.train("run", 0, "guard.action=rollback", "checkpoint.every=0", code=BAD_CONFIG)
        self.assert_refused(result, "guard.action", "checkpoint.every")
        result = self.train("run", 0, "guard.action=rollback", "checkpoint.policy=auto", code=BAD_CONFIG)
        self.assert_refused(result, "guard.action", "checkpoint.policy")
        result = self.train("run", 0, "guard.recompute_every=5", "collectives.reduction=fast", code=BAD_CONFIG)
        self.assert_refused(result, "guard.recompute_every", "collectives.reduction")


@unittest.skipUnless(LIBRARY, "needs the library of wrong products")
class Ranks(GuardCase):
    """Ranks whose processor fails."""

    SETTINGS = ("guard.spike=0", "runtime.device=cpu", "guard.recompute_every=1", "train.max_steps=12")

    def train_wrong(self, run, ranks, rank, *settings, code=0, **wrong):
        """Trains with one rank that is wrong or slow."""
        env = {"LD_PRELOAD": LIBRARY, "WRONG_RANK": str(rank)}
        env.update({f"WRONG_{key.upper()}": str(value) for key, value in wrong.items()})
        return self.train(run, ranks, *self.SETTINGS, *settings, code=code, env=env)

    def test_one_wrong_bit(self):
        """Wherever a check looks, one wrong bit is found, its rank is named, and the run is the healthy one."""
        for lanes in (2, 4):
            self.train(f"healthy-{lanes}", 0, *self.SETTINGS, f"train.lanes={lanes}", "guard.recompute_every=0")
        for ranks, lanes in ((1, 2), (2, 2), (3, 4), (4, 4)):
            with self.subTest(ranks=ranks):
                self.find_wrong_bit(ranks, lanes)

    def find_wrong_bit(self, ranks, lanes):
        """Tries product after product: only one lane in two or four is looked at."""
        for product in range(15, 31):
            run, found = f"{ranks}-{product}", []
            self.train_wrong(run, ranks, ranks - 1, f"train.lanes={lanes}", products=f"{product}-{product}")
            found = self.events(run, "wrong_arithmetic")
            if not found:
                continue
            self.assertEqual([(event["rank"], event["certain"]) for event in found], [(ranks - 1, True)])
            self.assertNotEqual(found[0]["fingerprint"], found[0]["expected_fingerprint"])
            self.assert_same(run, f"healthy-{lanes}")
            return
        self.fail(f"no wrong bit was found at {ranks} ranks")

    def test_a_rank_that_stays_wrong(self):
        """It is found each time the step is computed again, until the limit. Of two ranks nobody can tell which it is."""
        for ranks, accused in ((3, {(1, True)}), (2, {(0, False), (1, False)})):
            with self.subTest(ranks=ranks):
                run = f"ranks-{ranks}"
                result = self.train_wrong(run, ranks, 1, "train.lanes=4", "guard.limit=3", code=UNAVAILABLE,
                                          products="7-1000000000")
                self.assert_refused(result, "rank 1" if ranks == 3 else "or the other rank", "3 times")
                found = self.events(run, "wrong_arithmetic")
                self.assertEqual({(event["rank"], event["certain"]) for event in found}, accused)
                self.assertEqual(len(found), 3 * len(accused))

    def test_healthy(self):
        """Checks change no bit and find nothing, with spikes looked for and steps done again, too."""
        settings = ("train.max_steps=24", "guard.action=rollback", "train.accumulation=2")
        self.train("without", 0, *settings)
        for ranks in (1, 3):
            run = f"ranks-{ranks}"
            self.train(run, ranks, *settings, "guard.recompute_every=1")
            self.assert_same(run, "without")
            self.assertEqual(self.events(run, "wrong_arithmetic"), [])

    def test_a_slow_rank(self):
        """Its name is in an event once and in the metrics for as long as it is slow."""
        settings = ("guard.recompute_every=0", "train.max_steps=41", "checkpoint.every=0")
        self.train_wrong("slow", 3, 1, *settings, sleep=10000)
        slow = self.events("slow", "slow")
        self.assertEqual([(event["rank"], event["steps"], event["step"]) for event in slow], [(1, 20, 20)])
        self.assertGreater(slow[0]["ratio"], 1.5)
        lines = (self.dir / "slow/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        self.assertEqual({record["step"]: record["slowest"]["rank"] for record in records if "slowest" in record},
                         {step: 1 for step in range(20, 42)})
        # Four steps so short are over before a busy machine gives a processor back.
        self.train_wrong("moment", 3, 1, *settings, "train.max_steps=5", "guard.slow_steps=4", sleep=100)
        self.assertEqual(self.events("moment", "slow"), [])
        self.train_wrong("off", 3, 1, *settings, "guard.slow_ratio=0", sleep=1000)
        self.assertEqual(self.events("off", "slow"), [])


if __name__ == "__main__":
    harness.main()
