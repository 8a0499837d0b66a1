"""Importing IDX and CSV, looking at the result, and the cache."""

import gzip
import json
import unittest

import h5py

import harness
from harness import Case


class Import(Case):
    def root(self, name):
        """The root hash, which covers every value and the schema, after all of it was verified."""
        return self.run_lockstep("data", "verify", name).stdout.split()[-1]


class Idx(Import):
    def setUp(self):
        super().setUp()
        self.files = harness.write_images(self)

    def import_(self, *options, name="out.h5"):
        return self.run_lockstep("data", "import", "idx", *self.files, "-o", name, *options).stdout

    def test_import_is_cached(self):
        self.assertIn("out.h5: imported; 600 training, 0 validation and 200 test samples", self.import_())
        root, changed = self.root("out.h5"), (self.dir / "out.h5").stat().st_mtime_ns
        self.assertIn("unchanged, nothing to do", self.import_())
        self.assertEqual((self.dir / "out.h5").stat().st_mtime_ns, changed)
        self.assertIn("imported", self.import_("--force"))
        self.assertEqual(self.root("out.h5"), root)
        self.assertIn("imported", self.import_("--validation", "0.1"))
        self.assertNotEqual(self.root("out.h5"), root)
        self.assertIn("540 training, 60 validation and 200 test", self.import_("--validation", "0.1"))
        self.files[0].write_bytes(harness.images(600, seed=3)[0])
        self.assertIn("imported", self.import_("--validation", "0.1"))
        self.assert_no_leftovers()

    def test_damaged_output_is_imported_again(self):
        self.import_()
        root = self.root("out.h5")
        (self.dir / "out.h5").write_bytes((self.dir / "out.h5").read_bytes()[:1000])
        self.assertIn("imported", self.import_())
        self.assertEqual(self.root("out.h5"), root)

    def test_compressed_holds_the_same(self):
        """The layout differs, the contents' hash and what a model learns do not."""
        self.import_()
        self.import_("--compress", name="small.h5")
        self.assertLess((self.dir / "small.h5").stat().st_size, (self.dir / "out.h5").stat().st_size)
        self.assertEqual(self.root("out.h5"), self.root("small.h5"))
        self.write("config.yaml", harness.CONFIG)
        for name in ("out.h5", "small.h5"):
            self.run_lockstep("train", "-c", "config.yaml", "--run-dir", f"run-{name}", "--set", f"data.path={name}",
                              ranks=2)
        self.assertEqual(self.hash("run-out.h5"), self.hash("run-small.h5"))

    def test_inspect(self):
        self.import_()
        shown = self.run_lockstep("data", "inspect", "out.h5").stdout
        for text in ("6 x 6", "uint8", "4 classes", "600", "200", "mean"):
            self.assertIn(text, shown)


class Csv(Import):
    def import_(self, *options, inputs=("table.csv",), name="out.h5"):
        return self.run_lockstep("data", "import", "csv", *inputs, "-o", name, "--label", "label", *options).stdout

    def test_splits_are_seeded_and_stratified(self):
        self.write("table.csv", harness.table(400))
        split = ("--validation", "0.25", "--test", "0.25")
        self.assertIn("200 training, 100 validation and 100 test samples of 5 features", self.import_(*split))
        self.import_(*split, name="again.h5")
        self.assertEqual(self.root("again.h5"), self.root("out.h5"))
        self.import_(*split, "--seed", "7", name="other.h5")
        self.assertNotEqual(self.root("other.h5"), self.root("out.h5"))

    def test_columns_and_quoting(self):
        """A delimiter, quotes, CRLF and a byte order mark; a column to ignore and roles by option."""
        self.write("table.csv", '\ufeffname;a;"b ""x"";y";label\r\n' + "".join(
            f'"row;{i}";{i};"{i % 3}";{"yes" if i % 2 else "no"}\r\n' for i in range(60)))
        text = self.import_("--delimiter", ";", "--ignore", "name", "--numeric", "a", "--categorical", '"b ""x"";y"')
        self.assertIn("60 training, 0 validation and 0 test samples of 4 features", text)
        shown = self.run_lockstep("data", "inspect", "out.h5").stdout
        for word in ("categorical", "numeric", "ignore", "yes", "no"):
            self.assertIn(word, shown)

    def test_no_header(self):
        self.write("table.csv", "".join(f"{i},{i * i},{i % 2}\n" for i in range(40)))
        text = self.run_lockstep("data", "import", "csv", "table.csv", "-o", "out.h5", "--no-header", "--label",
                                 "2").stdout
        self.assertIn("40 training, 0 validation and 0 test samples of 2 features", text)

    def test_several_files_and_gzip(self):
        text = harness.table(100)
        head, rows = text.split("\n", 1)
        self.write("whole.csv", text)
        self.write("first.csv", head + "\n" + "\n".join(rows.splitlines()[:60]) + "\n")
        self.write("second.csv.gz", gzip.compress((head + "\n" + "\n".join(rows.splitlines()[60:]) + "\n").encode()))
        self.assertIn("100 training", self.import_(inputs=("first.csv", "second.csv.gz")))

    def test_missing_values(self):
        rows = harness.table(60).splitlines()
        rows[5] = "," + rows[5].split(",", 1)[1]
        rows[9] = "NA," + rows[9].split(",", 1)[1]
        rows[20] = ",".join(rows[20].split(",")[:2] + ["", rows[20].split(",")[3]])
        self.write("table.csv", "\n".join(rows) + "\n")
        marks = ("--missing-values", "NA,?")
        result = self.run_lockstep("data", "import", "csv", "table.csv", "-o", "out.h5", "--label", "label", *marks,
                                   code=65)
        self.assert_refused(result, "table.csv", "6")
        self.assertIn("57 training", self.import_(*marks, "--missing", "drop"))
        # Filled: a category of its own for what has no colour.
        self.assertIn("60 training, 0 validation and 0 test samples of 6 features",
                      self.import_(*marks, "--missing", "fill"))
        shown = self.run_lockstep("data", "inspect", "out.h5").stdout
        self.assertRegex(shown, r"(?i)missing")

    def test_partitions(self):
        """A run on a partition is one on a data set of nothing else, but for its means; it stays with its partition."""
        rows = harness.table(300).splitlines()
        self.write("table.csv", "\n".join([f"{rows[0]},place"] + [
            f"{row},{'north' if i % 3 else 'south'}" for i, row in enumerate(rows[1:])]) + "\n")
        self.import_("--partition-by", "place", "--test", "0.2")
        self.assertIn("unchanged", self.import_("--partition-by", "place", "--test", "0.2"))
        self.assertIn("imported", self.import_("--partition-by", "colour", "--test", "0.2", name="colours.h5"))
        self.write("config.yaml", harness.CONFIG.replace("images.h5", "out.h5"))
        where = ("--set", "data.where=place == 'south'")
        train = ("train", "-c", "config.yaml", "--set", "train.max_steps=10", "--set", "checkpoint.every=5")
        for ranks in (1, 3):
            self.run_lockstep(*train, *where, "--run-dir", f"run-{ranks}", ranks=ranks)
        self.assertEqual(self.hash("run-1"), self.hash("run-3"))
        self.run_lockstep(*train, "--run-dir", "all", ranks=1)
        self.assertNotEqual(self.hash("run-1"), self.hash("all"))
        north = ("--set", "data.where=place == 'north'", "--set", "train.max_steps=12")
        self.assert_refused(self.run_lockstep(*train, *north, "--run-dir", "run-1", ranks=1, code=76), "data.where")
        evaluated = self.run_lockstep("eval", "--checkpoint", "run-1").stdout
        with h5py.File(self.dir / "out.h5") as file:
            south = json.loads(file["schema"][()])["partitions"]["values"][1]
        self.assertEqual(json.loads(evaluated)["samples"], south["test"][1])
        for text, words in (("place == 'west'", ("west", "north")), ("colour == 'red'", ("partitioned by",)),
                            ("south", ("column == 'value'",))):
            result = self.run_lockstep(*train, "--set", f"data.where={text}", "--run-dir", "refused", ranks=1, code=78)
            self.assert_refused(result, "data.where", *words)
        result = self.run_lockstep("data", "import", "csv", "table.csv", "-o", "no.h5", "--label", "label",
                                   "--partition-by", "plaice", code=78)
        self.assert_refused(result, "partition-by", "place")

    def test_regression(self):
        self.write("table.csv", harness.table(100, "regression"))
        self.import_("--regression", "--test", "0.2")
        self.run_lockstep("data", "verify", "out.h5")
        self.assertNotIn("classes", self.run_lockstep("data", "inspect", "out.h5").stdout)


if __name__ == "__main__":
    unittest.main()
