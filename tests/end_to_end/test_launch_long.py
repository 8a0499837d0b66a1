"""lockstep launch, what takes long: a supervisor that is in another's way, and no false alarm on a busy machine.

SECONDS_UNDER_LOAD in the environment says how long the busy machine is watched; an hour is 3600.
"""

import os
import signal
import subprocess
import sys

import harness
import test_launch
from test_launch import start

SECONDS = int(os.environ.get("SECONDS_UNDER_LOAD", "90"))
BUSY = 16  # processes that never rest


class Long(test_launch.Launch):
    def test_second_supervisor_waits_in_vain(self):
        process = self.begin("run", 10)
        os.kill(process.pid, signal.SIGSTOP)  # holds the lock, and will not be done
        self.take_time()
        result = self.finish(start(self, ["--ranks", 2], "run"), 74)
        self.assert_refused(result, "in use", str(process.pid))
        os.kill(process.pid, signal.SIGCONT)
        self.finish(process)
        self.assert_same_bits("run")
        self.assertEqual(self.events("run", "restart"), [], "the supervisor's own pause was held against its ranks")

    def test_no_false_alarm_under_load(self):
        """Evaluations and saves all the time, twice as many ranks as cores, and eight times as much else to do."""
        self.write("run.yaml", test_launch.CONFIG.replace("max_steps: 90", "max_steps: 10000000").replace(
            "every: 20, keep_last: 100", "every: 20, keep_last: 2").replace("hidden: [32, 16]", "hidden: [512, 512, 512]").replace(
                "batch: 64", "batch: 256").replace("lr: 0.01", "lr: 0.0002"))
        spin = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
        try:
            result = self.finish(start(self, ["--ranks", 4], "run", ["--set", f"train.max_time={SECONDS}"]), 75,
                                 SECONDS + 10 * harness.DEADLINE)
        finally:
            for process in spin:
                process.kill()
                process.wait()
        # The ranks may well find that some of them are slow (guard.slow_ratio); the supervisor finds nothing.
        self.assertNotIn("warning: launch", result.stderr)
        self.assertEqual(self.events("run", "restart"), [])
        self.assertEqual(self.status("run")["attempt"], 1)
        self.assertGreater(self.status("run")["step"], 0)


if __name__ == "__main__":
    harness.main()
