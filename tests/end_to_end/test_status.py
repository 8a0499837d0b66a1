"""lockstep status: a run that lives, was killed, goes on; what its time went to; directories that are no runs."""

import json
import time
import unittest

import harness
from harness import CONFIG, Case, import_images


class Status(Case):
    def start(self, run, *settings, ranks=2):
        options = [part for setting in settings for part in ("--set", setting)]
        process = harness.start(["train", "-q", "-c", "config.yaml", "--run-dir", run, *options], ranks, self.dir)
        self.addCleanup(harness.kill_family, process.pid)
        return process

    def look(self, run):
        """What status says of a run, to programs and to people."""
        lines = self.run_lockstep("status", run, "--json").stdout.splitlines()
        self.assertEqual(len(lines), 1)
        return json.loads(lines[0]), self.run_lockstep("status", run).stdout

    def assert_adds_up(self, goodput):
        """Nothing is negative, and every second has its place."""
        self.assertGreaterEqual(min(goodput["step_seconds"], *goodput["lost"].values()), 0)
        self.assertAlmostEqual(goodput["wall_seconds"], goodput["step_seconds"] + sum(goodput["lost"].values()), 6)
        self.assertAlmostEqual(goodput["ratio"], goodput["step_seconds"] / goodput["wall_seconds"], 6)

    def test_a_run(self):
        """Alive, killed, and going on: what was made again, waited for, evaluated and saved is not goodput."""
        import_images(self)
        self.write("config.yaml", CONFIG.replace("max_steps: 60", "max_steps: 100000000").replace(
            "checkpoint: {every: 20", "checkpoint: {every: 0").replace("log: {every: 1}", "log: {every: 20}"))
        process = self.start("run")
        harness.wait_for_step(self, process, "run", 100)
        # The account on the disk is some steps behind: a hundred of them may take less than the time between two writes.
        end = time.monotonic() + harness.DEADLINE
        while self.look("run")[0]["goodput"]["lost"]["evaluate"] == 0:
            self.assertLess(time.monotonic(), end)
        alive, text = self.look("run")
        self.assertEqual((alive["state"], alive["alive"], alive["attempt"]), ("running", True, 1))
        self.assertEqual(alive["total_steps"], 100000000)
        self.assertIn(alive["events"][-1]["event"], ("start", "eval"))
        self.assert_adds_up(alive["goodput"])
        for word in ("running (process ", "of 100000000", "on 2 ranks", "goodput", "lost to", "start"):
            self.assertIn(word, text)

        harness.kill_family(process.pid)
        process.communicate()
        with open(self.dir / "run/events.jsonl", "a", encoding="utf-8") as events:
            events.write('{"time": "2026-')  # what a killed attempt may leave
        killed, text = self.look("run")
        self.assertEqual((killed["state"], killed["alive"]), ("running", False))
        self.assertIn("killed", text)
        self.assert_adds_up(killed["goodput"])
        self.assertGreater(killed["goodput"]["lost"]["start"], 0)
        self.assertGreater(killed["goodput"]["lost"]["evaluate"], 0)
        self.assertEqual(killed["goodput"]["lost"]["redo"], 0)

        # There was no checkpoint: the next attempt begins anew.
        process = self.start("run", ranks=3)
        harness.wait_for_step(self, process, "run", 60, attempt=2)
        self.write("run/stop", "")
        self.assertEqual(harness.finish(process).code, 75)
        stopped, text = self.look("run")
        self.assertEqual((stopped["state"], stopped["alive"], stopped["attempt"]), ("preempted", False, 2))
        self.assertIn("file stop", text)
        goodput, before = stopped["goodput"], killed["goodput"]
        self.assert_adds_up(goodput)
        self.assertEqual(goodput["attempts"], 2)
        self.assertAlmostEqual(goodput["lost"]["redo"], before["step_seconds"], 6)
        self.assertGreater(goodput["lost"]["restart"], 0)
        self.assertGreater(goodput["lost"]["start"], before["lost"]["start"])
        self.assertGreater(goodput["lost"]["checkpoint"], 0)
        self.assertEqual(goodput["lost"]["hang"], 0)
        # Events have it at each attempt's end, and at the beginning of one that follows another.
        events = self.events("run", "goodput")
        self.assertEqual([event["attempt"] for event in events], [2, 2])
        self.assertLess(events[0]["wall_seconds"], events[1]["wall_seconds"])
        self.assert_adds_up(self.status("run")["goodput"])

        for damage in ("", "{", '{"began": -1}', "[]"):
            self.write("run/attempts/000001/account.json", damage)
            left, _ = self.look("run")
            self.assertEqual(left["goodput"]["attempts"], 1)
            self.assert_adds_up(left["goodput"])

    def test_no_run(self):
        """One line that says what is wrong."""
        self.write("empty/file", "")
        self.write("early/attempts/run_id", "")
        self.write("damaged/status.json", '{"state": "runn')
        self.write("other/status.json", '{"step": 1}')
        for named, code, words in (("nothing", 66, ["no such run"]), ("empty/file", 66, ["no such run"]),
                                   ("empty", 66, ["is no run"]), ("early", 66, ["no status yet"]),
                                   ("damaged", 65, ["status.json", ":1:15"]), ("other", 65, ["no state"])):
            for arguments in ([], ["--json"]):
                result = self.run_lockstep("status", named, *arguments, code=code)
                self.assert_refused(result, named, *words)
                self.assertEqual(result.stdout, "")
        self.run_lockstep("status", code=2)
        # A status without anything else is shown.
        self.write("bare/status.json", '{"state": "completed"}')
        self.assertIn("completed", self.run_lockstep("status", "bare").stdout)
        self.assertIsNone(json.loads(self.run_lockstep("status", "bare", "--json").stdout)["total_steps"])


if __name__ == "__main__":
    unittest.main()
