"""The command line: help, version, configuration, doctor, and what it says to mistakes."""

import json
import os
import re
import subprocess
import unittest

import harness
from harness import CONFIG, Case, import_images

COMMANDS = (
    "train", "eval", "predict", "data import idx", "data import csv", "data inspect", "data verify",
    "checkpoint list", "checkpoint info", "checkpoint verify", "checkpoint hash", "checkpoint diff", "config show",
    "config validate", "config options", "doctor", "version")


class Help(Case):
    def test_overview_names_every_command(self):
        for arguments in (["--help"], ["-h"], ["help"]):
            output = self.run_lockstep(*arguments).stdout
            for name in COMMANDS:
                self.assertRegex(output, rf"(?m)^  lockstep {name} +\S")

    def test_groups(self):
        for group in ("data", "data import", "checkpoint", "config"):
            output = self.run_lockstep(*group.split(), "--help").stdout
            for name in COMMANDS:
                self.assertEqual(f"\n  lockstep {name} " in output, name.startswith(group), name)

    def test_every_command(self):
        for name in COMMANDS:
            for option in ("--help", "-h"):
                output = self.run_lockstep(*name.split(), option).stdout
                self.assertTrue(output.startswith(f"lockstep {name} "), output)
                self.assertIn("--help", output)

    def test_lines_are_short(self):
        for name in COMMANDS:
            for line in self.run_lockstep(*name.split(), "--help").stdout.splitlines():
                self.assertLessEqual(len(line), 110, line)


class Mistakes(Case):
    def refused(self, *arguments, words=()):
        result = self.run_lockstep(*arguments, code=2)
        self.assertEqual(result.stdout, "")
        self.assert_refused(result, *words)

    def test_unknown_command(self):
        self.refused("trian", "-c", "x", words=("trian", "lockstep train"))
        self.refused("data", "imprt", "csv", "x", words=("data import csv",))
        self.refused("checkpoint", "hsah", "x", words=("checkpoint hash",))
        self.refused("dance", words=("dance",))
        self.refused("data", words=("missing",))
        self.refused(words=("missing",))
        self.refused("--quiet", words=("--quiet",))

    def test_unknown_option(self):
        self.refused("train", "--resmue=auto", words=("--resmue", "--resume"))
        self.refused("data", "import", "csv", "--labell", "x", words=("--labell", "--label"))
        self.refused("version", "-x", words=("-x",))
        self.refused("doctor", "--json=1", words=("--json", "no value"))

    def test_missing_and_bad_arguments(self):
        self.refused("train", "-c", words=("-c",))
        self.refused("train", "--set", words=("--set",))
        self.refused("train", "-c", "x.yaml", "--set", "a", words=("section.key=value",))
        self.refused("train", "-c", "x.yaml", "--profile", "many", words=("--profile", "many"))
        self.refused("train", "-c", "x.yaml", "--ranks", "2", words=("--dry-run",))
        self.refused("eval", words=("--checkpoint",))
        self.refused("predict", "--checkpoint", "x", words=("INPUT",))
        self.refused("checkpoint", "diff", "x", words=("DIR DIR",))
        self.refused("checkpoint", "hash", "x", "y", words=("y",))
        self.refused("data", "import", "csv", "x", "-o", "y", "--missing", "maybe", words=("error, drop, fill",))
        self.refused("data", "import", "csv", "x", "-o", "y", "--delimiter", "ab", words=("--delimiter",))

    def test_control_characters_stay_in_one_line(self):
        result = self.run_lockstep("train", "-c", "a\nlockstep: b", code=66)
        self.assert_refused(result)


class Version(Case):
    def test_version(self):
        text = self.run_lockstep("version").stdout
        self.assertRegex(text, r"^lockstep \d+\.\d+\.\d+\n$")
        version = json.loads(self.run_lockstep("version", "--json").stdout)["version"]
        self.assertEqual(text, f"lockstep {version}\n")


class Configuration(Case):
    def show(self, *arguments, env=None):
        return self.run_lockstep("config", "show", *arguments, env=env).stdout

    def value(self, option, *arguments, env=None):
        """The option's value in the YAML that is shown."""
        section, key = option.split(".")
        block = re.search(rf"(?ms)^{section}:\n((?:  .*\n|\n)*)", self.show(*arguments, env=env)).group(1)
        return re.search(rf"(?m)^  {key}: (.*)$", block).group(1)

    def test_show_reads_back(self):
        self.write("config.yaml", CONFIG)
        shown = self.show("-c", "config.yaml")
        self.write("shown.yaml", shown)
        self.assertEqual(self.show("-c", "shown.yaml"), shown)

    def test_precedence(self):
        self.write("config.yaml", "train: {batch: 128}\n")
        env = {"LOCKSTEP_TRAIN_BATCH": "512"}
        file, setting = ("-c", "config.yaml"), ("--set", "train.batch=1024")
        self.assertEqual(self.value("train.batch"), "256")
        self.assertEqual(self.value("train.batch", *file), "128")
        self.assertEqual(self.value("train.batch", *file, env=env), "512")
        self.assertEqual(self.value("train.batch", *file, *setting, env=env), "1024")
        self.assertEqual(self.value("train.batch", *setting, "--set", "train.batch=2048"), "2048")

    def test_validate(self):
        self.write("config.yaml", CONFIG)
        self.run_lockstep("config", "validate", "-c", "config.yaml")
        self.run_lockstep("config", "validate", "-c", "config.yaml", "--set", "train.batch=63", code=78)
        self.run_lockstep("config", "validate", "-c", "absent.yaml", code=66)
        self.run_lockstep("config", "validate", code=2)

    def test_shipped_configurations(self):
        files = sorted((harness.ROOT / "configs").glob("*.yaml"))
        self.assertTrue(files)
        for file in files:
            self.run_lockstep("config", "validate", "-c", file)

    def test_options(self):
        names = re.findall(r"(?m)^([a-z]+\.[a-z0-9_]+) = ", self.run_lockstep("config", "options").stdout)
        self.assertEqual(len(set(names)), len(names))
        for name in ("model.kind", "data.path", "train.batch", "train.lanes", "train.accumulation", "train.max_steps",
                     "train.max_time", "train.seed", "train.init_from", "optimizer.kind", "optimizer.lr",
                     "checkpoint.every", "checkpoint.keep_last", "eval.every", "log.every",
                     "runtime.device", "runtime.precision", "runtime.threads", "collectives.backend",
                     "collectives.reduction"):
            self.assertIn(name, names)
        markdown = self.run_lockstep("config", "options", "--markdown").stdout
        for name in names:
            self.assertIn(name.split(".")[1], markdown)

    def test_full_output(self):
        if not os.access("/dev/full", os.W_OK):
            self.skipTest("this system has no /dev/full")
        with open("/dev/full", "w", encoding="ascii") as full:
            code = subprocess.run(harness.command(["config", "options"]), stdout=full, stderr=subprocess.DEVNULL,
                                  env=harness.environment(), check=False).returncode
        self.assertEqual(code, 74)


class Doctor(Case):
    def test_json(self):
        report = json.loads(self.run_lockstep("doctor", "--json").stdout)
        self.assertTrue(report["ok"])
        checks = {check["check"]: check for check in report["checks"]}
        for name in ("cpu", "device", "products", "cores", "mpi", "hdf5", "shm", "gpu", "disk"):
            self.assertIn(checks[name]["verdict"], ("ok", "warning"), checks[name])
            self.assertTrue(checks[name]["found"])
        self.assertIn("oneDNN", checks["device"]["found"])
        self.assertIn("HDF5 1.", checks["hdf5"]["found"])
        self.assertRegex(checks["products"]["found"], r"TFLOP/s measured on .*; mfu is of ")

    def test_text(self):
        self.assertRegex(self.run_lockstep("doctor").stdout, r"(?m)^ok +cpu +\S")

    def test_ranks(self):
        """One rank speaks for all."""
        output = self.run_lockstep("doctor", ranks=3).stdout
        self.assertEqual(len(re.findall(r"(?m)^ok +ranks +started as 3 ranks \(mpi\)", output)), 1)


class Looking(Case):
    """Commands that show what a run left."""

    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def test_dry_run(self):
        for arguments, ranks in ((["--ranks", "3"], 0), ([], 3)):
            output = self.run_lockstep("train", "-c", "config.yaml", "--dry-run", *arguments, ranks=ranks).stdout
            self.assertRegex(output, r"(?m)^ranks +3$")
            self.assertEqual(len(re.findall(r"(?m)^ +[012] +\d+-\d+", output)), 3, output)
        self.assertFalse((self.dir / "runs").exists())

    def test_dry_run_for_gpus(self):
        """It needs none: what a rank will need on one, in the precision asked for."""
        bytes_of = {}
        for precision in ("fp32", "fp16", "auto"):
            output = self.run_lockstep("train", "-c", "config.yaml", "--dry-run", "--ranks", "2", "--set",
                                       "runtime.device=cuda", "--set", f"runtime.precision={precision}", "--set",
                                       "model.hidden=[2048,2048]").stdout
            self.assertIn("GPU", output)
            rows = [row.split() for row in re.findall(r"(?m)^ +[01] +\d+-\d+.*$", output)]
            self.assertEqual(len(rows), 2)
            for row in rows:
                numbers = list(map(float, row[4:]))
                # Weights … workspace add up to the GPU's column; each is printed to a tenth.
                self.assertAlmostEqual(sum(numbers[:7]), numbers[7], delta=0.05 * 8)
                self.assertEqual(numbers[6], 64)
            bytes_of[precision] = float(rows[0][4])
        # Rounding to a tenth is the only difference from half.
        self.assertAlmostEqual(bytes_of["fp16"], bytes_of["fp32"] / 2, delta=0.1)
        self.assertEqual(bytes_of["auto"], bytes_of["fp16"])

    def test_default_run_directory(self):
        self.run_lockstep("train", "-c", "config.yaml", "--set", "train.max_steps=10")
        self.assertEqual(self.status("runs/config")["state"], "completed")

    def test_checkpoint_commands(self):
        for run, seed in (("one", 1), ("same", 1), ("other", 2)):
            self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run, "--set", f"train.seed={seed}")
        listed = self.run_lockstep("checkpoint", "list", "one").stdout.splitlines()
        self.assertEqual([line.split()[0] for line in listed],
                         [f"one/checkpoints/step-{step:08d}" for step in (20, 40, 60)])
        newest = "one/checkpoints/step-00000060"
        self.assertEqual(self.hash("one"), self.hash(newest))
        self.assertRegex(self.hash("one"), "^[0-9a-f]{64}$")
        self.assertIn("layers.0.weight", self.run_lockstep("checkpoint", "info", newest).stdout)
        self.run_lockstep("checkpoint", "verify", newest)
        self.run_lockstep("checkpoint", "diff", "one", "same")
        result = self.run_lockstep("checkpoint", "diff", "one", "other", code=76)
        self.assert_refused(result, "differ")
        self.assertIn("layers.0.weight", result.stdout)
        self.run_lockstep("checkpoint", "list", "absent", code=66)

    def test_eval(self):
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "run")
        expected = self.status("run")["eval"]
        for ranks in (0, 1, 3):
            found = json.loads(self.run_lockstep("eval", "--checkpoint", "run", ranks=ranks).stdout)
            self.assertEqual(found["split"], "test")
            self.assertEqual(found["samples"], 200)
            # Printed with nine digits there, with seventeen in status.json.
            for name in ("loss", "accuracy", "macro_f1"):
                self.assertEqual(found[name], float(f"{expected[name]:.9g}"), name)
        self.assertNotIn("top5_accuracy", expected)  # of four classes
        train = json.loads(self.run_lockstep("eval", "--checkpoint", "run", "--split", "train").stdout)
        self.assertEqual(train["samples"], 600)
        self.run_lockstep("eval", "--checkpoint", "run", "--split", "validation", code=65)

    def test_top_five(self):
        """Of nine classes, after few steps; the best checkpoint by it is kept."""
        import_images(self, "nine.h5", classes=9, size=9)
        options = ("data.path=nine.h5", "train.max_steps=6", "eval.every=2", "eval.metric=top5_accuracy", "optimizer.lr=0.003")
        results = []
        for ranks in (1, 3):
            self.run_lockstep("train", "-c", "config.yaml", "--run-dir", f"nine-{ranks}",
                              *(word for option in options for word in ("--set", option)), ranks=ranks)
            results.append([event["top5_accuracy"] for event in self.events(f"nine-{ranks}", "eval")])
            self.assertGreater(results[-1][-1], self.status(f"nine-{ranks}")["eval"]["accuracy"])
        self.assertEqual(*results)
        self.assertEqual(self.hash("nine-1"), self.hash("nine-3"))
        self.assertTrue(all(0 < value < 1 for value in results[0]), results[0])

    def test_run_directory(self):
        """The files of the contract, and what is in them."""
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "run", ranks=2)
        run = self.dir / "run"
        for name in ("config.yaml", "env.json", "status.json", "metrics.jsonl", "events.jsonl", "log/rank-0000.log",
                     "log/rank-0001.log", "checkpoints/step-00000060/manifest.json"):
            self.assertTrue((run / name).exists(), name)
        status = self.status("run")
        for key in ("state", "step", "epoch", "world_size", "attempt", "train_loss", "eval", "samples_per_second",
                    "tokens_per_second", "checkpoint", "message", "updated_at"):
            self.assertIn(key, status)
        self.assertEqual((status["state"], status["step"], status["world_size"]), ("completed", 60, 2))
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for key in ("step", "loss", "lr", "grad_norm", "step_seconds", "data_seconds", "comm_seconds",
                    "samples_per_second", "tokens_per_second", "loss_scale", "attempt"):
            self.assertIn(key, records[0])
        for kind in ("start", "checkpoint", "eval", "stop"):
            self.assertTrue(self.events("run", kind), kind)
        self.run_lockstep("config", "validate", "-c", run / "config.yaml")

    def test_full_output_of_a_run(self):
        """The run trains to its end; that its progress was lost is said after it, and not as a success."""
        if not os.access("/dev/full", os.W_OK):
            self.skipTest("this system has no /dev/full")
        with open("/dev/full", "w", encoding="ascii") as full:
            ended = subprocess.run(
                harness.command(["train", "-c", "config.yaml", "--run-dir", "run"]), cwd=self.dir, stdout=full,
                stderr=subprocess.PIPE, text=True, env=harness.environment(), check=False, timeout=harness.DEADLINE)
        self.assertEqual(ended.returncode, 74, ended.stderr)
        self.assertIn("standard output", ended.stderr)
        self.assertNotIn("Success", ended.stderr)
        self.assertEqual(self.status("run")["state"], "completed")

    def test_quiet(self):
        result = self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", "run")
        self.assertEqual(result.stdout + result.stderr, "")

    def test_profile(self):
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "run", "--profile", "5", ranks=2)
        for rank in range(2):
            trace = json.loads((self.dir / f"run/profile/rank-{rank:04d}.json").read_text(encoding="utf-8"))
            events = trace["traceEvents"] if isinstance(trace, dict) else trace
            self.assertTrue(any(event.get("name") == "step" for event in events))


if __name__ == "__main__":
    unittest.main()
