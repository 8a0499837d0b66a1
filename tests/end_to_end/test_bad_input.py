"""Bad input: the contract's exit code and one clear line, alone and on three ranks; nothing half-written, no hang."""

import gzip
import math
import os
import struct
import subprocess
import unittest

import harness
from harness import CONFIG, Case, import_images, import_table

USAGE, BAD_DATA, NO_INPUT, IO, CHECKPOINT, BAD_CONFIG = 2, 65, 66, 74, 76, 78

# Alone, and as ranks that must all end, while one of them speaks.
BOTH = (0, 3)


class BadInput(Case):
    def refused(self, *arguments, code, words=(), ranks=0, env=None):
        """Runs what must be refused with this exit code and one line; no temporary file is left."""
        result = self.run_lockstep(*arguments, ranks=ranks, code=code, env=env)
        self.assert_refused(result, *words)
        self.assert_no_leftovers()
        return result

    def train_refused(self, *arguments, code, words=(), config=CONFIG, run="run", env=None):
        """The same for train, at each number of ranks."""
        self.write("config.yaml", config)
        for ranks in BOTH:
            with self.subTest(ranks=ranks, arguments=arguments):
                self.refused("train", "-c", "config.yaml", "--run-dir", run, *arguments, code=code, words=words,
                             ranks=ranks, env=env)


class BadConfiguration(BadInput):
    def setUp(self):
        super().setUp()
        import_images(self)

    def test_missing_file(self):
        for ranks in BOTH:
            self.refused("train", "-c", "absent.yaml", code=NO_INPUT, words=("absent.yaml",), ranks=ranks)

    def test_garbage_and_truncated_yaml(self):
        for text in ("train: {batch: 64", "\x00\x01\x02", "- a\n- list\n", "train:\n\tbatch: 64\n", "a: &x 1\nb: *x\n"):
            self.train_refused(config=text, code=BAD_CONFIG, words=("config.yaml",))

    def test_binary_yaml(self):
        self.write("config.yaml", bytes(range(256)))
        for ranks in BOTH:
            self.refused("train", "-c", "config.yaml", code=BAD_CONFIG, words=("config.yaml",), ranks=ranks)

    def test_unknown_option(self):
        self.train_refused("--set", "train.bacth=64", code=BAD_CONFIG, words=("train.bacth", "train.batch"))
        self.train_refused(config=CONFIG + "optimiser: {lr: 1}\n", code=BAD_CONFIG, words=("optimiser", "optimizer"))
        self.train_refused(env={"LOCKSTEP_TRAIN_BACTH": "64"}, code=BAD_CONFIG, words=("LOCKSTEP_TRAIN_BACTH",))

    def test_out_of_range_option(self):
        self.train_refused("--set", "optimizer.lr=-1", code=BAD_CONFIG, words=("optimizer.lr", "-1"))
        self.train_refused("--set", "train.batch=none", code=BAD_CONFIG, words=("train.batch", "none"))
        self.train_refused("--set", "model.kind=transfomer", code=BAD_CONFIG, words=("model.kind",))
        self.train_refused("--set", "train.lanes=6", code=BAD_CONFIG, words=("train.lanes", "power of two"))

    def test_batch_does_not_divide(self):
        self.train_refused("--set", "train.batch=65", code=BAD_CONFIG, words=("train.batch", "65"))
        self.train_refused("--set", "train.accumulation=3", code=BAD_CONFIG, words=("train.accumulation",))

    def test_no_end(self):
        self.train_refused("--set", "train.max_steps=0", code=BAD_CONFIG, words=("train.max_steps",))

    def test_more_ranks_than_lanes(self):
        self.write("config.yaml", CONFIG)
        self.refused("train", "-c", "config.yaml", "--set", "train.lanes=2", ranks=3, code=BAD_CONFIG,
                     words=("train.lanes",))
        self.refused("train", "-c", "config.yaml", "--dry-run", "--ranks", "9", code=BAD_CONFIG, words=("9",))

    def test_ranks_configured_differently(self):
        """An option that decides when ranks meet, set on one of them only."""
        self.write("config.yaml", CONFIG)
        for option in ("LOCKSTEP_CHECKPOINT_EVERY=7", "LOCKSTEP_COLLECTIVES_BUCKET_MB=0.0625", "LOCKSTEP_LOG_EVERY=3"):
            with self.subTest(option=option):
                train = harness.command(["train", "-c", "config.yaml", "--run-dir", "mixed"], 1)
                both = [*train, ":", "-np", "1", "env", option, *train[train.index(harness.LOCKSTEP):]]
                process = subprocess.Popen(
                    both, cwd=self.dir, env=harness.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, text=True, start_new_session=True)
                result = harness.finish(process)
                self.assertEqual(result.code, BAD_CONFIG, str(result))
                self.assert_refused(result, "the configuration", "ranks must not differ")

    def test_loss_that_does_not_fit(self):
        self.train_refused("--set", "train.loss=binary_cross_entropy", code=BAD_CONFIG, words=("train.loss",))

    def test_augmentation_that_does_not_fit(self):
        self.train_refused("--set", "data.crop_padding=6", code=BAD_CONFIG, words=("data.crop_padding is 6", "6 x 6"))
        self.train_refused("--set", "data.flip=true", "--set", f"data.path={import_table(self)}", code=BAD_CONFIG,
                           words=("data.flip is for images",))

    def test_metric_that_does_not_fit(self):
        """Otherwise early stopping would end the run after its first evaluation, as if it had learned."""
        for metric in ("roc_auc", "top5_accuracy"):
            self.train_refused("--set", f"eval.metric={metric}", code=BAD_CONFIG, words=("eval.metric", "4"))
        import_table(self, kind="regression")
        for metric in ("accuracy", "top5_accuracy", "macro_f1", "roc_auc"):
            self.train_refused("--set", "data.path=table.h5", "--set", f"eval.metric={metric}", code=BAD_CONFIG,
                               words=("eval.metric",))

    def test_usage(self):
        for arguments in (("train",), ("train", "--resmue", "auto"), ("train", "-c"), ("trian",), ()):
            for ranks in BOTH:
                with self.subTest(arguments=arguments, ranks=ranks):
                    self.refused(*arguments, code=USAGE, ranks=ranks)

    def test_ranks_for_a_command_of_one(self):
        self.refused("data", "verify", "images.h5", ranks=3, code=USAGE, words=("mpirun",))
        self.run_lockstep("data", "verify", "images.h5", ranks=1)


class BadDataSet(BadInput):
    """Data set files that train and data verify must refuse."""

    def setUp(self):
        super().setUp()
        self.whole = import_images(self).read_bytes()

    def damaged(self, content):
        (self.dir / "images.h5").write_bytes(content)

    def test_missing(self):
        (self.dir / "images.h5").unlink()
        self.train_refused(code=NO_INPUT, words=("images.h5",))
        self.train_refused("--set", "data.path=", code=BAD_CONFIG, words=("data.path",))

    def test_truncated_or_garbage(self):
        for content in (b"", b"not a data set at all\n" * 100, self.whole[:100], self.whole[: len(self.whole) // 2],
                        self.whole[:-1]):
            with self.subTest(size=len(content)):
                self.damaged(content)
                self.refused("data", "verify", "images.h5", code=BAD_DATA, words=("images.h5",))
        self.damaged(self.whole[: len(self.whole) // 2])
        self.train_refused(code=BAD_DATA, words=("images.h5",))

    def test_another_hdf5_file(self):
        import h5py

        with h5py.File(self.dir / "images.h5", "w") as file:
            file["x"] = [1, 2, 3]
        self.train_refused(code=BAD_DATA, words=("images.h5",))

    def test_flipped_byte(self):
        """A changed pixel keeps the structure: verify finds it."""
        import h5py

        with h5py.File(self.dir / "images.h5", "r") as file:
            offset = file["train/x"].id.get_offset()
        changed = bytearray(self.whole)
        changed[offset + 1000] ^= 1
        self.damaged(changed)
        self.refused("data", "verify", "images.h5", code=BAD_DATA, words=("images.h5", "train"))

    def test_label_out_of_range(self):
        import h5py

        with h5py.File(self.dir / "images.h5", "r+") as file:
            file["train/y"][5] = 4
        self.train_refused("--set", "train.max_epochs=2", code=BAD_DATA, words=("images.h5",))

    def test_not_a_number(self):
        import h5py

        import_table(self, "images.h5")
        with h5py.File(self.dir / "images.h5", "r+") as file:
            file["train/x"][7, 1] = float("nan")
        self.train_refused("--set", "train.max_epochs=2", code=BAD_DATA, words=("images.h5",))
        self.refused("data", "verify", "images.h5", code=BAD_DATA, words=("images.h5",))

    def test_a_folder(self):
        (self.dir / "images.h5").unlink()
        (self.dir / "images.h5").mkdir()
        self.write("config.yaml", CONFIG)
        for ranks in BOTH:
            result = harness.finish(harness.start(["train", "-c", "config.yaml"], ranks, self.dir))
            self.assertIn(result.code, (BAD_DATA, IO), str(result))
            self.assert_refused(result, "images.h5")


class BadImport(BadInput):
    def idx_refused(self, *names, code=BAD_DATA, words=()):
        self.refused("data", "import", "idx", *names, "-o", "out.h5", code=code, words=words)
        self.assertFalse((self.dir / "out.h5").exists())

    def csv_refused(self, text, *options, code=BAD_DATA, words=()):
        self.write("table.csv", text)
        self.refused("data", "import", "csv", "table.csv", "-o", "out.h5", "--label", "label", *options, code=code,
                     words=words)
        self.assertFalse((self.dir / "out.h5").exists())

    def test_idx(self):
        images, labels = harness.images(40)
        self.write("images", images)
        self.write("labels", labels)
        self.idx_refused("absent", "labels", code=NO_INPUT, words=("absent",))
        for name, content in {
            "empty": b"",
            "magic": b"\x01\x00\x08\x03" + images[4:],
            "type": b"\x00\x00\x55\x03" + images[4:],
            "header": images[:9],
            "short": images[:-1],
            "long": images + b"x",
            "huge": images[:4] + b"\xff" * 12 + images[16:],
            "text": b"hello, world\n" * 50,
            "torn.gz": gzip.compress(images)[:-20],
            "flipped.gz": gzip.compress(images)[:200] + b"\x00\xff\x00" + gzip.compress(images)[203:],
        }.items():
            with self.subTest(name=name):
                self.write(name, content)
                self.idx_refused(name, "labels", words=(name,))
        self.write("fewer-labels", harness.idx((39,), [0] * 39))
        self.idx_refused("images", "fewer-labels")
        self.write("one-class", harness.idx((40,), [0] * 40))
        self.idx_refused("images", "one-class", words=("one-class",))
        values = [1.0] * 33 + [math.nan] + [1.0] * 46
        self.write("nan", b"\0\0\x0d\x02" + struct.pack(">II80f", 40, 2, *values))
        self.idx_refused("nan", "labels", words=("nan", str(12 + 33 * 4)))
        self.idx_refused("images")

    def test_csv(self):
        self.csv_refused("")
        self.csv_refused("a,label\n1,x\n2\n3,y\n", words=("table.csv", "3"))
        self.csv_refused('a,label\n"1,x\n2,y\n', words=("table.csv",))
        self.csv_refused("a,label\n1,x\nnan,y\n", "--numeric", "a", words=("table.csv",))
        self.csv_refused("a,label\n1,x\ninf,y\n", "--numeric", "a", words=("table.csv",))
        self.csv_refused("a,label\n1,x\nred,y\n", "--numeric", "a", words=("table.csv", "a"))
        self.csv_refused("a,label\n1,x\n,y\n", "--numeric", "a", words=("table.csv",))
        self.csv_refused("a,b\n1,x\n2,y\n", code=BAD_CONFIG, words=("label",))
        self.csv_refused("a,label\n1,x\nb,\xff\n".encode("latin-1"), words=("table.csv",))
        self.csv_refused("a,a,label\n1,1,x\n2,2,y\n", words=("a",))
        self.csv_refused("a,label\n1,x\n2,y\n", "--validation", "0.7", "--test", "0.5", code=USAGE)

    def test_output_cannot_be_written(self):
        for path in harness.write_images(self):
            self.assertTrue(path.exists())
        names = sorted(path.name for path in self.dir.iterdir())
        self.refused("data", "import", "idx", *names, "-o", "absent/out.h5", code=IO, words=("absent",))
        self.refused("data", "import", "idx", *names, code=USAGE, words=("-o",))


class BadStorage(BadInput):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)

    def test_run_directory_is_a_file(self):
        self.write("run", "in the way")
        self.train_refused(code=IO, words=("run",))

    def test_read_only(self):
        if os.geteuid() == 0 and not self.mount("-o", "ro"):
            self.skipTest("root writes everywhere, and no file system can be mounted here")
        if os.geteuid() != 0:
            (self.dir / "mounted").mkdir()
            (self.dir / "mounted").chmod(0o500)
        self.train_refused(run="mounted/run", code=IO, words=("mounted",))

    def test_full_disk(self):
        if not self.mount("-o", "size=256k"):
            self.skipTest("no small file system can be mounted here")
        # State of this model is larger than the file system.
        self.train_refused("--set", "model.hidden=[128, 128]", run="mounted/run", code=IO, words=("mounted",))
        self.assertEqual(list((self.dir / "mounted" / "run" / "checkpoints").glob("step-*")), [])
        self.fill(self.dir / "mounted" / "filler")
        self.refused("data", "import", "idx", *sorted(path.name for path in self.dir.glob("*idx*")), "-o",
                     "mounted/out.h5", code=IO, words=("mounted",))
        self.assertFalse((self.dir / "mounted" / "out.h5").exists())

    def test_disk_full_in_mid_run(self):
        """The event of an evaluation finds no room on rank 0: the other ranks end with it, before their deadline."""
        if not self.mount("-o", "size=4m"):
            self.skipTest("no small file system can be mounted here")
        process = harness.start(
            ["train", "-q", "-c", "config.yaml", "--run-dir", "mounted/run", "--set", "train.max_steps=100000000",
             "--set", "checkpoint.every=0", "--set", "log.every=1000", "--set", "eval.every=2"], 3, self.dir)
        self.addCleanup(harness.kill_family, process.pid)
        harness.wait_for_step(self, process, "mounted/run", 1000)
        self.fill(self.dir / "mounted" / "filler")
        result = harness.finish(process)
        self.assertEqual(result.code, IO, str(result))
        self.assert_refused(result, "No space left")

    def fill(self, path):
        """Leaves no free block."""
        with open(path, "wb", buffering=0) as file, self.assertRaises(OSError):
            while True:
                file.write(bytes(4096))

    def mount(self, *options):
        """A file system of its own at mounted/; False where that is not permitted."""
        folder = self.dir / "mounted"
        folder.mkdir()
        mounted = os.geteuid() == 0 and subprocess.run(
            ["mount", "-t", "tmpfs", *options, "tmpfs", folder], check=False, capture_output=True).returncode == 0
        if mounted:
            self.addCleanup(subprocess.run, ["umount", folder], check=True)
        return mounted


class BadCheckpoint(BadInput):
    def setUp(self):
        super().setUp()
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "run")
        self.checkpoints = [self.dir / "run/checkpoints" / f"step-{step:08d}" for step in (20, 40, 60)]
        self.newest = self.checkpoints[-1]

    def damage(self, checkpoint):
        """Flips a bit of a tensor."""
        path = checkpoint / "state.h5"
        content = bytearray(path.read_bytes())
        content[-4096] ^= 1
        path.write_bytes(content)

    def state_files(self):
        """What a refused attempt leaves as it was."""
        return [(self.dir / "run" / name).read_bytes() for name in ("config.yaml", "status.json", "metrics.jsonl")]

    def test_missing(self):
        for name in ("info", "verify", "hash"):
            self.refused("checkpoint", name, "absent", code=NO_INPUT, words=("absent",))
        self.train_refused("--resume", "absent", code=NO_INPUT, words=("absent",))
        self.refused("eval", "--checkpoint", "absent", code=NO_INPUT, words=("absent",), ranks=3)

    def test_damaged(self):
        self.damage(self.newest)
        for name in ("verify", "hash"):
            self.refused("checkpoint", name, self.newest, code=CHECKPOINT, words=("step-00000060",))
        self.train_refused("--resume", self.newest, code=CHECKPOINT, words=("step-00000060",))
        for ranks in BOTH:
            self.refused("eval", "--checkpoint", self.newest, ranks=ranks, code=CHECKPOINT, words=("step-00000060",))

    def test_truncated_or_garbage(self):
        for name in ("manifest.json", "state.h5"):
            path = self.newest / name
            whole = path.read_bytes()
            for content in (b"", b"{}", b"garbage" * 100, whole[: len(whole) // 2], whole[:-1]):
                with self.subTest(name=name, size=len(content)):
                    path.write_bytes(content)
                    self.refused("checkpoint", "verify", self.newest, code=CHECKPOINT, words=("step-00000060",))
            path.write_bytes(whole)
        self.run_lockstep("checkpoint", "verify", self.newest)

    def test_falls_back(self):
        """--resume auto takes the one before, says so, and ends with the bits of the undisturbed run."""
        undisturbed = self.hash("run")
        self.damage(self.newest)
        result = self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "run", ranks=3)
        self.assertIn("step 60 is left aside", result.stderr)
        self.assertEqual(self.hash("run"), undisturbed)

    def test_none_is_intact(self):
        for checkpoint in self.checkpoints:
            self.damage(checkpoint)
        self.train_refused(code=CHECKPOINT, words=("--resume never",))
        self.assertEqual(self.status("run")["state"], "failed")
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "run", "--resume", "never", ranks=2)

    def test_no_manifest_is_left(self):
        """Directories without a manifest are damage; the run does not begin again over them in silence."""
        for checkpoint in self.checkpoints:
            (checkpoint / "manifest.json").unlink()
        self.train_refused(code=CHECKPOINT, words=("--resume never",))
        self.assertTrue(self.newest.is_dir())

    def test_another_model(self):
        before = self.state_files()
        self.train_refused("--set", "model.hidden=[32, 17]", code=CHECKPOINT, words=("model.hidden",))
        self.assertEqual(self.state_files(), before)

    def test_another_data_set(self):
        """The file's hash is not the one that the checkpoint was trained on."""
        import_images(self, "other.h5", test=120)
        self.train_refused("--set", "data.path=other.h5", code=CHECKPOINT, words=("other.h5",))
        for ranks in BOTH:
            self.refused("eval", "--checkpoint", "run", "--set", "data.path=other.h5", ranks=ranks, code=CHECKPOINT,
                         words=("other.h5",))

    def test_weights_of_another_model(self):
        self.train_refused("--set", f"train.init_from={self.newest}", "--set", "model.hidden=[8]", run="fresh",
                           code=CHECKPOINT)

    def test_predict(self):
        self.write("text.csv", "a,b\n1,2\n")
        self.refused("predict", "--checkpoint", "run", "absent", code=NO_INPUT, words=("absent",))
        self.refused("predict", "--checkpoint", "run", "text.csv", "-o", "out.csv", code=BAD_DATA, words=("text.csv",))
        self.write("wide", harness.images(3, size=7)[0])
        self.refused("predict", "--checkpoint", "run", "wide", "-o", "out.csv", code=BAD_DATA, words=("wide",))
        self.assertFalse((self.dir / "out.csv").exists())

    def test_no_room_for_predictions(self):
        if not os.access("/dev/full", os.W_OK):
            self.skipTest("this system has no /dev/full")
        self.write("images", harness.images(10)[0])
        with open("/dev/full", "w", encoding="ascii") as full:
            process = subprocess.run(
                harness.command(["predict", "--checkpoint", "run", "images"]), cwd=self.dir, stdout=full, text=True,
                stderr=subprocess.PIPE, env=harness.environment(), check=False, timeout=harness.DEADLINE)
        self.assertEqual(process.returncode, IO, process.stderr)
        self.assertIn("standard output", process.stderr)

    def test_run_in_use(self):
        """A living attempt holds the directory."""
        process = harness.start(["train", "-c", "config.yaml", "--run-dir", "busy", "--set", "train.max_steps=1000000"],
                                1, self.dir)
        self.addCleanup(harness.kill_family, process.pid)
        harness.wait_for_step(self, process, "busy", 1)
        for ranks in BOTH:
            result = self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "busy", ranks=ranks, code=IO)
            self.assert_refused(result, "in use")
        self.assertIsNone(process.poll(), "the attempt that holds the directory went on")
        harness.kill_family(process.pid)
        process.communicate()


if __name__ == "__main__":
    unittest.main()
