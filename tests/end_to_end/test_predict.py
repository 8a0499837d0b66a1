"""Predictions for new data through the preprocessing that was stored at import."""

import csv
import gzip
import io
import json
import math
import unittest

import harness
from harness import CONFIG, Case, import_images, import_table
from test_train_modes import TABLE


class Predict(Case):
    def predict(self, *arguments, run="run"):
        """Rows of the output as dictionaries."""
        output = self.run_lockstep("predict", "--checkpoint", run, *arguments).stdout
        return list(csv.DictReader(io.StringIO(output)))

    def train(self, run="run", *settings):
        options = [part for setting in settings for part in ("--set", setting)]
        self.run_lockstep("train", "-c", "config.yaml", "--run-dir", run, *options, ranks=2)

    def assert_probabilities(self, row, classes):
        probabilities = {name: float(row[name]) for name in classes}
        # Nine digits are printed of each, and rounding adds up.
        self.assertAlmostEqual(sum(probabilities.values()), 1, delta=len(classes) * 1e-8)
        self.assertEqual(row["prediction"], max(probabilities, key=probabilities.get))

    def test_images(self):
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.train()
        rows = self.predict("t10k-images-idx3-ubyte.gz")
        self.assertEqual([row["line"] for row in rows], [str(i) for i in range(1, 201)])
        for row in rows:
            self.assert_probabilities(row, "0123")
        right = sum(int(row["prediction"]) == i % 4 for i, row in enumerate(rows))
        self.assertEqual(right / len(rows), self.status("run")["eval"]["accuracy"])
        # A row's prediction does not depend on what else is in the file.
        self.write("few", gzip.decompress((self.dir / "t10k-images-idx3-ubyte.gz").read_bytes())[:16 + 3 * 36]
                   .replace((200).to_bytes(4, "big"), (3).to_bytes(4, "big"), 1))
        self.assertEqual(self.predict("few"), rows[:3])

    def test_output_file(self):
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.train()
        printed = self.run_lockstep("predict", "--checkpoint", "run", "t10k-images-idx3-ubyte.gz").stdout
        result = self.run_lockstep("predict", "--checkpoint", "run", "t10k-images-idx3-ubyte.gz", "-o", "out.csv")
        self.assertEqual(result.stdout, "")
        self.assertEqual((self.dir / "out.csv").read_text(encoding="utf-8"), printed)
        self.assert_no_leftovers()

    def test_table(self):
        """Both losses for two classes; without the label column, in another order, without the data set."""
        import_table(self)
        self.write("config.yaml", TABLE)
        text = harness.table(100, seed=9)
        self.write("new.csv", text)
        expected = [row["label"] for row in csv.DictReader(io.StringIO(text))]
        reader = list(csv.DictReader(io.StringIO(text)))
        other = io.StringIO()
        writer = csv.DictWriter(other, ["colour", "width", "height"], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(reader)
        self.write("unlabelled.csv", other.getvalue())
        for loss in ("cross_entropy", "binary_cross_entropy"):
            self.train(loss, f"train.loss={loss}")
        (self.dir / "table.h5").unlink()
        for loss in ("cross_entropy", "binary_cross_entropy"):
            with self.subTest(loss=loss):
                rows = self.predict("new.csv", run=loss)
                self.assertEqual(len(rows), 100)
                self.assertEqual(rows[0]["line"], "2")
                for row in rows:
                    self.assert_probabilities(row, ("no", "yes"))
                right = sum(row["prediction"] == label for row, label in zip(rows, expected))
                # As in training: noise turns a few labels near the border.
                self.assertGreater(right, 80)
                self.assertEqual(self.predict("unlabelled.csv", run=loss), rows)

    def test_regression(self):
        import_table(self, kind="regression")
        self.write("config.yaml", TABLE)
        self.train()
        text = harness.table(100, "regression", seed=9)
        self.write("new.csv", text)
        rows = self.predict("new.csv")
        errors = [float(row["prediction"]) - float(true["label"])
                  for row, true in zip(rows, csv.DictReader(io.StringIO(text)))]
        loss = self.status("run")["eval"]["loss"]
        # The same distribution as the test split: far below the targets' variance of about 7.
        self.assertLess(math.fsum(error * error for error in errors) / len(errors), max(1.0, 4 * loss))
        self.assertEqual(list(rows[0]), ["line", "prediction"])

    def test_category_never_seen(self):
        import_table(self)
        self.write("config.yaml", TABLE)
        self.train()
        self.write("new.csv", "width,height,colour\n0.5,5,purple\n0.5,5,red\n")
        result = self.run_lockstep("predict", "--checkpoint", "run", "new.csv")
        self.assertEqual(len(result.stdout.splitlines()), 3)
        self.assertIn('column "colour": 1 rows have a category that the training data lacks', result.stderr)

    def test_any_precision_of_a_run(self):
        """The configuration of the checkpoint decides, and an option can be set over it."""
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.train()
        reference = self.predict("t10k-images-idx3-ubyte.gz", "--set", "runtime.device=ref")
        for row, other in zip(self.predict("t10k-images-idx3-ubyte.gz"), reference):
            for name in "0123":
                # FP32 products of 36, 32 and 16 terms in another order: a few units in the last place.
                self.assertAlmostEqual(float(row[name]), float(other[name]), delta=1e-4)
        result = self.run_lockstep("predict", "--checkpoint", "run", "--set", "model.hidden=[8]",
                                   "t10k-images-idx3-ubyte.gz", code=76)
        self.assert_refused(result, "model.hidden")

    def test_schema_is_in_the_checkpoint(self):
        import_images(self)
        self.write("config.yaml", CONFIG)
        self.train()
        manifest = (self.dir / "run/checkpoints/step-00000060/manifest.json").read_text(encoding="utf-8")
        self.assertIn("feature_shape", json.dumps(json.loads(manifest)))


if __name__ == "__main__":
    unittest.main()
