"""`cmake --install` gives a program that runs from elsewhere."""

import os
import pathlib
import subprocess
import unittest

import harness
from harness import CONFIG, Case, import_images


class Install(Case):
    def test_runs_from_elsewhere(self):
        build = os.environ.get("LOCKSTEP_BUILD", str(pathlib.Path(harness.LOCKSTEP).parent))
        prefix = self.dir / "prefix"
        subprocess.run(["cmake", "--install", build, "--prefix", prefix], check=True, capture_output=True,
                       timeout=harness.DEADLINE)
        program = prefix / "bin" / "lockstep"
        self.assertTrue((prefix / "share/lockstep/configs/fashion-mlp.yaml").exists())
        original, harness.LOCKSTEP = harness.LOCKSTEP, str(program)
        self.addCleanup(setattr, harness, "LOCKSTEP", original)
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "run", ranks=2)
        installed = self.hash("run")
        harness.LOCKSTEP = original
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "built", ranks=2)
        self.assertEqual(self.hash("built"), installed)


if __name__ == "__main__":
    unittest.main()
