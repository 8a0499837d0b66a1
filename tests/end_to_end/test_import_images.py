"""Importing JPEG and PNG: directories and shards, what is left out, going on after a kill, appending, files
that are kept as they are, training."""

import csv
import fcntl
import io
import json
import os
import pathlib
import shutil
import signal
import struct
import tarfile
import unittest
import zlib

import h5py
import numpy

import harness
from harness import Case

FIXTURES = pathlib.Path(__file__).resolve().parent / "images"  # 30 wide, 20 high, of one picture
BAD_DATA = 65


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, level=6):
    """A PNG of an array [height][width] or [height][width][3]."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, level)) + chunk(b"IEND", b"")


def jpeg(seed):
    """A JPEG, 30 wide and 20 high, of other pixels for every seed: that of the fixtures with other steps of its first table."""
    data = bytearray((FIXTURES / "colour.jpg").read_bytes())
    table = data.index(b"\xff\xdb") + 5
    for i, step in enumerate(numpy.random.default_rng(seed).integers(1, 40, 64)):
        data[table + i] = step
    return bytes(data)


def picture(seed, height=8, width=6, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    seeds = list(seed) if isinstance(seed, bytes) else seed
    return numpy.random.default_rng(seeds).integers(0, 256, shape, dtype=numpy.uint8)


class ImportImages(Case):
    def import_(self, *arguments, code=0, name="out.h5", size="8x6"):
        return self.run_lockstep("data", "import", "images", *arguments, "-o", name, "--size", size, code=code)

    def tearDown(self):
        self.assert_no_leftovers()
        self.assertEqual(list(self.dir.rglob("*.decoded")), [])

    def write_classes(self, root, count, first=0, classes=("b", "a"), **options):
        """`count` images for each class; returns {class: [array …]} in the order of the names."""
        made = {}
        for c, name in enumerate(classes):
            made[name] = [picture(1000 * c + first + i, **options) for i in range(count)]
            for i, pixels in enumerate(made[name]):
                self.write(f"{root}/{name}/{first + i:04}.png", png(pixels))
        return made

    def read(self, split="train", name="out.h5"):
        self.run_lockstep("data", "verify", name)
        with h5py.File(self.dir / name) as file:
            return (file[f"{split}/x"][:], file[f"{split}/y"][:]) if split in file else ([], [])

    def test_directories(self):
        made = self.write_classes("in", 5)
        self.write("in/a/notes.txt", "no image")
        result = self.import_("in")
        self.assertIn("out.h5: imported; 10 training, 0 validation and 0 test", result.stdout)
        self.assertIn("1 files are no images", result.stderr)
        x, y = self.read()
        numpy.testing.assert_array_equal(x, made["a"] + made["b"])  # of the size already: untouched
        self.assertEqual(list(y), [0] * 5 + [1] * 5)
        changed = (self.dir / "out.h5").stat().st_mtime_ns
        self.assertIn("unchanged, nothing to do", self.import_("in").stdout)
        self.assertEqual((self.dir / "out.h5").stat().st_mtime_ns, changed)
        self.assertIn("6 training, 2 validation and 2 test",
                      self.import_("in", "--validation", "0.2", "--test", "0.2").stdout)
        shown = self.run_lockstep("data", "inspect", "out.h5").stdout
        for text in ("8 x 6 x 3", "images", "mean"):
            self.assertIn(text, shown)

    def test_directories_of_splits(self):
        self.write_classes("in/train", 4)
        held_out = self.write_classes("in/val", 2, first=50)
        self.write_classes("in/test", 1, first=80)
        self.assertIn("8 training, 4 validation and 2 test", self.import_("in").stdout)
        numpy.testing.assert_array_equal(self.read("validation")[0], held_out["a"] + held_out["b"])
        self.assert_refused(self.import_("in", "--validation", "0.1", code=2), "splits")
        self.write_classes("in/test", 1, classes=("z",))
        self.assert_refused(self.import_("in", code=BAD_DATA), "class z has no training image")
        self.write("in/Val.txt", "no directory")
        (self.dir / "in/valid").symlink_to("nowhere")
        shutil.rmtree(self.dir / "in/test")
        self.write("in/test", "no directory")
        self.assertIn("8 training, 4 validation", self.import_("in", "--force").stdout)
        self.write_classes("in/notes", 1)
        self.assert_refused(self.import_("in", code=BAD_DATA), "beside the splits train and val", '"notes"')

    def test_class_called_train(self):
        self.write_classes("in", 1, classes=("car", "train"))
        self.assertIn("train is taken for a class", self.import_("in").stderr)
        self.assertEqual(list(self.read()[1]), [0, 1])

    def test_statistics_of_channels(self):
        self.write_classes("in", 6)
        self.import_("in")
        x = self.read()[0].astype(float)
        with h5py.File(self.dir / "out.h5") as file:
            schema = json.loads(file["schema"][()])
        numpy.testing.assert_allclose(schema["shift"], x.mean((0, 1, 2)), rtol=1e-6)  # rounded to float32
        numpy.testing.assert_allclose(schema["scale"], 1 / x.std((0, 1, 2)), rtol=1e-6)

    def test_jpeg_and_channels(self):
        """Grey becomes colour; colour never grey."""
        for i, name in enumerate(("colour", "grey", "cmyk")):
            for label in "ab":
                self.write(f"in/{label}/{name}.jpg", (FIXTURES / f"{name}.jpg").read_bytes())
        self.import_("in", size="20x30")
        x = self.read()[0].astype(int)
        cmyk, colour, grey = x[0], x[1], x[2]
        # The fixtures were made of one picture: columns · 8, rows · 12, and for grey their sum · 5.
        rows, columns = numpy.mgrid[0:20, 0:30]
        original = numpy.stack([columns * 8, rows * 12, (rows + columns) * 5], -1)
        self.assertLess(abs(colour - original).mean(), 4)  # what JPEG of quality 90 loses
        self.assertLess(abs(cmyk - original).mean(), 4)
        self.assertLess(abs(grey - original[..., 2:]).mean(), 4)
        for label in "ab":
            (self.dir / f"in/{label}/cmyk.jpg").unlink()
        self.assert_refused(self.import_("in", "--channels", "1", code=BAD_DATA, size="20x30"), "2 of 4 images",
                            "colour.jpg", "3 channels, 1 is wanted")
        self.import_("in", "--channels", "1", "--corrupt-share", "0.5", size="20x30")
        self.assertEqual(self.read()[0].shape, (2, 20, 30))

    def test_corrupt(self):
        self.write_classes("in", 50)
        self.write("in/a/0003.png", b"")
        result = self.import_("in")
        self.assertIn("0003.png: the file is empty; the image is left out", result.stderr)
        self.assertIn("99 training", result.stdout)
        sound = (self.dir / "in/b/0007.png").read_bytes()
        self.write("in/b/0007.png", sound[:len(sound) // 2])
        (self.dir / "out.h5").unlink()
        self.assert_refused(self.import_("in", code=BAD_DATA), "2 of 100 images", "--corrupt-share 0.01", "0003.png")
        self.assertFalse((self.dir / "out.h5").exists())
        self.assertIn("98 training", self.import_("in", "--corrupt-share", "0.02").stdout)

    def test_links(self):
        """A link to a file is that file, a link to nothing an image that cannot be read."""
        self.write_classes("in", 50)
        (self.dir / "in/b/0007.png").rename(self.dir / "elsewhere.png")
        (self.dir / "in/b/0007.png").symlink_to(self.dir / "elsewhere.png")
        (self.dir / "in/a/0003.png").unlink()
        (self.dir / "in/a/0003.png").symlink_to(self.dir / "nowhere.png")
        result = self.import_("in")
        self.assertIn("a/0003.png is a link to nothing; the image is left out", result.stderr)
        self.assertIn("99 training", result.stdout)
        (self.dir / "in/a/0003.png").unlink()
        (self.dir / "in/a/0003.png").symlink_to("0003.png")
        self.assertIn("a/0003.png is a link to nothing", self.import_("in", "--force").stderr)

    def test_names_that_move_the_cursor(self):
        self.write_classes("in", 1)
        self.write("in/a/\x1b[2J\x9b\n.png", b"")
        self.assert_refused(self.import_("in", code=BAD_DATA), "in/a/?[2J??.png: the file is empty")
        os.rename(os.fsencode(self.dir / "in/b"), os.fsencode(self.dir / "in") + b"/b\xff")
        self.assert_refused(self.import_("in", code=BAD_DATA), 'in: "b?" is no name for a class')

    def test_bombs(self):
        """A header that declares a gigabyte is refused for what it declares, also where it would be the only one."""
        self.write_classes("in", 1)
        header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
        data = zlib.compress(bytes(1 << 20))
        self.write("in/a/bomb.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
        self.assert_refused(self.import_("in", code=BAD_DATA), "bomb.png", "declares 20000 x 20000 pixels")

    def test_nothing_to_import(self):
        (self.dir / "empty").mkdir()
        self.assert_refused(self.import_("empty", code=BAD_DATA), "no images")
        self.assert_refused(self.import_("missing", code=66), "missing")
        self.write_classes("in", 1, classes=("one",))
        self.assert_refused(self.import_("in", code=BAD_DATA), "class one")
        for size in ("8", "0x8", "8x", "8x8x3", "99999x8", "-8x8"):
            self.assert_refused(self.import_("in", code=2, size=size), "--size")
        self.assert_refused(self.import_("in", code=2, size="16384x16384"), "larger than a sample")
        self.assert_refused(self.import_("in", "--channels", "2", code=2), "--channels")
        self.assert_refused(self.import_("in", "--corrupt-share", "1.5", code=2), "--corrupt-share")

    # ---- Shards --------------------------------------------------------------------------------------------------------

    def shard(self, name, members, form=tarfile.GNU_FORMAT):
        """A tar of (name, bytes), or (name, None) for a link to /etc/passwd."""
        with tarfile.open(self.dir / name, "w", format=form) as archive:
            for member, content in members:
                info = tarfile.TarInfo(member)
                if content is None:
                    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                else:
                    info.size = len(content)
                archive.addfile(info, io.BytesIO(content or b""))
        return self.dir / name

    def test_shards(self):
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            pixels = [picture(i) for i in range(6)]
            deep = "x" * (90 if form == tarfile.USTAR_FORMAT else 180)
            members = [("0.png", png(pixels[0])), ("0.cls", b"10\n"), ("1.cls", b"2"), ("1.png", png(pixels[1])),
                       ("2.png", png(pixels[2])), ("2.json", b'{"label": 10, "more": [1]}'), ("2.txt", b"about it"),
                       (f"{deep}/3.png", png(pixels[3])), (f"{deep}/3.cls", b" 0 "), ("4.txt", b"no image")]
            self.shard("data-train-0.tar", members, form)
            self.shard("latest-val-0.tar", [("5.png", png(pixels[5])), ("5.json", b'{"label": "2"}')], form)
            self.import_("data-train-0.tar", "latest-val-0.tar", "--force")
            x, y = self.read()
            numpy.testing.assert_array_equal(x, pixels[:4])
            self.assertEqual(list(y), [2, 1, 2, 0])  # classes 0, 2, 10, in the order of numbers
            self.assertEqual(list(self.read("validation")[1]), [1])

    def test_shard_for_training_whose_name_has_val(self):
        self.shard("testset.tar", [("0.png", png(picture(0))), ("0.cls", b"0"), ("1.png", png(picture(1))), ("1.cls", b"1")])
        result = self.import_("testset.tar")
        self.assertEqual(result.stderr.count("testset.tar is a shard for training"), 1)
        self.assertIn("2 training", result.stdout)

    def test_path_tricks(self):
        """Names are text: nothing is written but the output, whatever they look like, and links are not followed."""
        self.shard("tricks.tar", [("../../evil.png", png(picture(1))), ("../../evil.cls", b"0"),
                                  ("/etc/evil.png", png(picture(2))), ("/etc/evil.cls", b"1"), ("link.png", None)])
        before = sorted(self.dir.parent.glob("evil*"))
        self.import_("tricks.tar")
        self.assertEqual(len(self.read()[0]), 2)
        self.assertEqual(sorted(self.dir.parent.glob("evil*")), before)
        self.assertEqual(sorted(path.name for path in self.dir.iterdir()), ["out.h5", "tricks.tar"])
        self.assertFalse(os.path.exists("/etc/evil.png"))

    def test_bad_shards(self):
        good = [("0.png", png(picture(0))), ("0.cls", b"0"), ("1.png", png(picture(1))), ("1.cls", b"1")]
        whole = self.shard("good.tar", good).read_bytes()
        self.write("cut.tar", whole[:1000])
        self.write("open.tar", whole[:len(whole.rstrip(b"\0")) // 512 * 512 + 512])
        self.write("text.tar", "no archive\n" * 100)
        self.write("flipped.tar", whole[:124] + b"7" + whole[125:])
        self.write("nothing.tar", b"")
        for name in ("cut", "open", "text", "flipped", "nothing"):
            self.assert_refused(self.import_(f"{name}.tar", code=BAD_DATA), f"{name}.tar: offset", "tar archive")
        self.shard("unlabelled.tar", [("0.png", png(picture(0)))])
        self.assert_refused(self.import_("unlabelled.tar", code=BAD_DATA), "0.png", "has no class")
        self.shard("label.tar", [("0.png", png(picture(0))), ("0.cls", b" \n")])
        self.assert_refused(self.import_("label.tar", code=BAD_DATA), "0.cls", "no class's name or number")

    # ---- Going on, and more ------------------------------------------------------------------------------------------

    def test_goes_on_after_a_kill(self):
        for label in "ab":
            for i in range(40):
                self.write(f"in/{label}/{i}.png", png(picture(f"{label}{i}".encode(), height=500, width=500), level=1))
        self.import_("in", name="whole.h5", size="224x224")
        arguments = ["data", "import", "images", "in", "-o", "out.h5", "--size", "224x224", "--threads", "1"]
        process = harness.start(arguments, 0, self.dir)
        work, record = self.dir / "out.h5.decoded", 224 * 224 * 3
        self.wait_until("ten images are decoded", lambda: work.exists() and work.stat().st_size > 10 * record, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        decoded = work.stat().st_size // record
        self.assertFalse((self.dir / "out.h5").exists())
        with open(work, "r+b") as file:  # one that was not written to its end
            file.seek(5 * record)
            file.write(bytes(1000))
        result = self.import_("in", size="224x224")
        known = int(result.stderr.split("data import: ")[1].split()[0])
        self.assertTrue(decoded - 3 <= known < decoded + 1, f"{known} of {decoded}: {result}")
        roots = [self.run_lockstep("data", "verify", name).stdout.split()[-1] for name in ("out.h5", "whole.h5")]
        self.assertEqual(roots[0], roots[1])

    def test_two_at_a_time(self):
        self.write_classes("in", 2)
        with open(self.dir / "out.h5.decoded", "w+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.assert_refused(self.import_("in", code=74), "another import")
        (self.dir / "out.h5.decoded").unlink()

    def test_append(self):
        first = self.write_classes("one", 4)
        self.import_("one", "--validation", "0.25")
        kept = self.read()[0], self.read("validation")[0]
        more = self.write_classes("two", 3, first=20, classes=("c", "a"))
        self.write("two/a/again.png", png(first["a"][0]))
        result = self.import_("two", "--append")
        self.assertIn("1 of 7 images were decoded", result.stderr)
        self.assertIn("12 training, 2 validation", result.stdout)
        x, y = self.read()
        numpy.testing.assert_array_equal(x, list(kept[0]) + more["a"] + more["c"])
        self.assertEqual(list(y), [0] * 3 + [1] * 3 + [0] * 3 + [2] * 3)
        numpy.testing.assert_array_equal(self.read("validation")[0], kept[1])
        changed = (self.dir / "out.h5").stat().st_mtime_ns
        self.assertIn("unchanged", self.import_("two", "--append").stdout)
        self.assertEqual((self.dir / "out.h5").stat().st_mtime_ns, changed)
        self.assert_refused(self.import_("two", "--append", code=2, size="9x9"), "9 x 9")
        # A class between those that were there moves their numbers.
        self.write_classes("three", 1, first=500, classes=("aa",))
        self.import_("three", "--append")
        self.assertEqual(list(self.read()[1]), [0] * 3 + [2] * 3 + [0] * 3 + [3] * 3 + [1])
        # Without --append the inputs are all there is; what is decoded is not decoded again.
        self.assertIn("8 of 8 images were decoded", self.import_("one").stderr)
        numpy.testing.assert_array_equal(self.read()[0], first["a"] + first["b"])

    def test_damaged_output(self):
        """Rows of a damaged output are not taken over, and nothing is appended to it."""
        made = self.write_classes("in", 3)
        self.import_("in")
        with h5py.File(self.dir / "out.h5") as file:
            place = file["train/x"].id.get_offset()
        with open(self.dir / "out.h5", "r+b") as file:
            file.seek(place + 10)
            file.write(b"damage")
        self.assert_refused(self.import_("in", "--append", code=BAD_DATA), "block 0 of /train/x")
        self.import_("in", "--validation", "0.34")
        self.import_("in")
        numpy.testing.assert_array_equal(self.read()[0], made["a"] + made["b"])

    def test_partitions(self):
        made = {name: self.write_classes(name, 3, first=first) for name, first in (("south", 0), ("north", 50))}
        self.import_("south/", "north//", "--partition-by", "input")
        expected = made["north"]["a"] + made["north"]["b"] + made["south"]["a"] + made["south"]["b"]
        numpy.testing.assert_array_equal(self.read()[0], expected)
        more = self.write_classes("east", 1, first=90)
        self.import_("east", "--append", "--partition-by", "input")
        numpy.testing.assert_array_equal(self.read()[0], more["a"] + more["b"] + expected)
        with h5py.File(self.dir / "out.h5") as file:
            partitions = json.loads(file["schema"][()])["partitions"]
        self.assertEqual(partitions, {"column": "input", "values": [
            {"value": "east", "train": [0, 2]}, {"value": "north", "train": [2, 6]}, {"value": "south", "train": [8, 6]}]})
        self.assert_refused(self.import_("east", "--append", code=2), "has partitions by input")
        self.assert_refused(self.import_("east", "--partition-by", "colour", code=2), "by class or by input")

    def test_train(self):
        """Channels of their own statistics, and augmentation: the same bits at any number of ranks."""
        self.write_classes("in/train", 40, classes=("a", "b", "c"))
        self.write_classes("in/test", 8, first=100, classes=("a", "b", "c"))
        self.import_("in", name="images.h5")
        self.write("config.yaml", harness.CONFIG.replace("images.h5", "images.h5, crop_padding: 1, flip: true")
                   .replace("max_steps: 60", "max_steps: 8").replace("every: 20", "every: 4"))
        for ranks in (1, 3):
            self.run_lockstep("train", "-c", "config.yaml", "--run-dir", f"run-{ranks}", ranks=ranks)
        self.assertEqual(self.hash("run-1"), self.hash("run-3"))
        self.predict()
        one_image = ("model.kind=resnet", "train.batch=8", "train.lanes=8")
        for settings, word in ((["data.cutout=7"], "hide all of an image"), (one_image, "nothing to normalise over")):
            options = [part for setting in settings for part in ("--set", setting)]
            self.assert_refused(self.run_lockstep("train", "-c", "config.yaml", "--run-dir", "no", *options, code=78), word)
        self.write("out.h5.decoded", "what a killed import left")  # is not lost to a wrong option
        self.assert_refused(self.import_("in", "--validation", "0.1", code=2), "leave out the fractions")
        (self.dir / "out.h5.decoded").unlink()

    def predictions(self, given):
        """Rows without their first field, by it."""
        lines = self.run_lockstep("predict", "--checkpoint", "run-1", given).stdout.splitlines()
        rows = csv.reader(lines[1:])
        return lines[0].split(",")[0], {row[0]: row[1:] for row in rows}

    def predict(self):
        """Files are what the import made of them: the test split's directory, one file, and one of another size."""
        kind, rows = self.predictions("in/test")
        self.assertEqual(kind, "file")
        right = sum(pathlib.Path(name).parts[2] == row[0] for name, row in rows.items())
        self.assertEqual(right / len(rows), self.status("run-1")["eval"]["accuracy"])
        self.write("more/deep/large, wide.png", png(picture(7, height=31, width=40)))
        self.write("more/notes.txt", "no image")
        self.assertEqual(self.predictions("in/test/b/0103.png"), ("file", {"in/test/b/0103.png": rows["in/test/b/0103.png"]}))
        large = self.predictions("more")[1]
        self.assertEqual(list(large), ["more/deep/large, wide.png"])
        # The same through the data set that an import makes of them.
        for label in "ab":
            self.write(f"again/{label}/one.png", (self.dir / "more/deep/large, wide.png").read_bytes())
        self.import_("again", name="again.h5")
        pixels = self.read(name="again.h5")[0][:1]
        self.write("large-idx", harness.idx(pixels.shape, pixels.tobytes()))
        self.assertEqual(self.predictions("large-idx"), ("line", {"1": large["more/deep/large, wide.png"]}))
        self.write("more/broken.png", png(picture(8))[:60])
        for given, word in (("more", "more/broken.png"), ("again.h5", "no JPEG, PNG or IDX file"), ("none.png", "none.png")):
            code = 66 if given == "none.png" else BAD_DATA
            self.assert_refused(self.run_lockstep("predict", "--checkpoint", "run-1", given, code=code), word)
        os.mkfifo(self.dir / "pipe")
        self.assert_refused(self.run_lockstep("predict", "--checkpoint", "run-1", "pipe", code=BAD_DATA), "regular file")

    # ---- Encoded images ----------------------------------------------------------------------------------------------

    def write_mixed(self, root, count, first=0, classes=("a", "b", "c")):
        """JPEG and PNG of several sizes; returns the files' bytes in the order of the rows."""
        files = []
        for c, name in enumerate(classes):
            for i in range(first, first + count):
                shape = ((20, 30), (8, 6), (41, 23))[i % 3]
                data = jpeg(1000 * c + i) if shape == (20, 30) else png(picture(5000 * c + i, *shape))
                self.write(f"{root}/{name}/{i:04}.{'jpg' if shape == (20, 30) else 'png'}", data)
                files.append(data)
        return files

    def encoded(self, split="train", name="out.h5"):
        """The files of a split, and its labels."""
        self.run_lockstep("data", "verify", name)
        with h5py.File(self.dir / name) as file:
            data, places = file[f"{split}/encoded"][:].tobytes(), [int(place) for place in file[f"{split}/offsets"]]
            self.assertNotIn("x", file[split])
            return [data[a:b] for a, b in zip(places, places[1:])], list(file[f"{split}/y"])

    def schema(self, name="out.h5"):
        with h5py.File(self.dir / name) as file:
            return json.loads(file["schema"][()])

    def test_keep_encoded(self):
        """The files as they are, with the statistics of their pixels."""
        files = self.write_mixed("in", 6)
        self.import_("in", name="pixels.h5")
        result = self.import_("in", "--keep-encoded")
        self.assertIn("out.h5: imported; 18 training", result.stdout)
        self.assertEqual(self.encoded(), (files, [0] * 6 + [1] * 6 + [2] * 6))
        schema, pixels = self.schema(), self.schema("pixels.h5")
        self.assertTrue(schema["encoded"])
        for key in ("shift", "scale", "mean", "deviation", "feature_shape", "classes", "corrupt"):
            self.assertEqual(schema[key], pixels[key])
        self.assertEqual(schema["splits"]["train"]["files_hash"], pixels["splits"]["train"]["files_hash"])
        shown = self.run_lockstep("data", "inspect", "out.h5").stdout
        for text in ("8 x 6 x 3 uint8, decoded when read", f"{sum(map(len, files))} bytes of JPEG and PNG"):
            self.assertIn(text, shown)
        changed = (self.dir / "out.h5").stat().st_mtime_ns
        self.assertIn("unchanged, nothing to do", self.import_("in", "--keep-encoded").stdout)
        self.assertEqual((self.dir / "out.h5").stat().st_mtime_ns, changed)
        # Other rows for training have other statistics.
        for name, encoded in (("out.h5", ["--keep-encoded"]), ("pixels.h5", [])):
            self.import_("in", "--validation", "0.4", *encoded, name=name)
        schema, pixels = self.schema(), self.schema("pixels.h5")
        self.assertEqual(schema["mean"], pixels["mean"])
        self.assertEqual(len(self.encoded("validation")[0]), 7)
        # An output that becomes the other kind is imported anew.
        self.import_("in", "--validation", "0.4")
        self.assertEqual(self.schema()["root_hash"], pixels["root_hash"])
        self.assert_refused(self.import_("in", "--keep-encoded", "--compress", code=2), "--compress")

    def test_corrupt_encoded(self):
        """What cannot be decoded is found by the import, and left out."""
        files = self.write_mixed("in", 20)
        self.write("in/a/0003.jpg", files[3][:300])
        del files[3]
        self.assert_refused(self.import_("in", "--keep-encoded", code=BAD_DATA), "1 of 60 images", "0003.jpg")
        self.assertIn("0003.jpg", self.import_("in", "--keep-encoded", "--corrupt-share", "0.05").stderr)
        self.assertEqual(self.encoded()[0], files)
        self.assertEqual(self.schema()["corrupt"], 1)

    def start_slow_import(self):
        """An import of 80 large images that has decoded ten, the size of what it keeps of each, and where."""
        for label in "ab":
            for i in range(40):
                self.write(f"in/{label}/{i}.png", png(picture(f"{label}{i}".encode(), height=500, width=500), level=1))
        arguments = ["data", "import", "images", "in", "-o", "out.h5", "--size", "224x224", "--threads", "1", "--keep-encoded"]
        process = harness.start(arguments, 0, self.dir)
        work, record = self.dir / "out.h5.decoded", 3 * 256 * 8  # how often each value of each channel comes
        self.wait_until("ten images are decoded", lambda: work.exists() and work.stat().st_size > 10 * record, process)
        return process, record, work

    def test_changed_while_imported(self):
        """What is stored is what was decoded, or nothing is."""
        process, _, _ = self.start_slow_import()
        process.send_signal(signal.SIGSTOP)
        self.write("in/a/0.png", png(picture(1)))
        process.send_signal(signal.SIGCONT)
        result = harness.finish(process)
        self.assertEqual(result.code, 74, str(result))
        self.assert_refused(result, "in/a/0.png was changed while it was imported")
        self.assertFalse((self.dir / "out.h5").exists())

    def test_encoded_goes_on_after_a_kill(self):
        process, record, work = self.start_slow_import()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        decoded = work.stat().st_size // record
        self.assertLess(decoded, 80)
        result = self.import_("in", "--keep-encoded", size="224x224")
        known = int(result.stderr.split("data import: ")[1].split()[0])
        self.assertTrue(decoded - 3 <= known < decoded + 1, f"{known} of {decoded}: {result}")
        self.import_("in", "--keep-encoded", name="whole.h5", size="224x224")
        self.assertEqual(self.schema()["root_hash"], self.schema("whole.h5")["root_hash"])

    def test_append_encoded(self):
        """An output stays what it is, with the statistics that an import of all would have found."""
        first = self.write_mixed("one", 3)
        more = self.write_mixed("two", 2, first=50, classes=("aa", "d"))
        self.import_("one", "--keep-encoded")
        self.write("two/d/again.png", first[1])
        self.assertIn("13 training", self.import_("two", "--append").stdout)
        files, labels = self.encoded()
        self.assertEqual(files, first + more)
        self.assertEqual(labels, [0] * 3 + [2] * 3 + [3] * 3 + [1] * 2 + [4] * 2)
        (self.dir / "two/d/again.png").unlink()
        self.import_("one", "two", name="pixels.h5")
        self.assertEqual(self.schema()["mean"], self.schema("pixels.h5")["mean"])
        self.assertEqual(self.schema()["deviation"], self.schema("pixels.h5")["deviation"])
        changed = (self.dir / "out.h5").stat().st_mtime_ns
        self.assertIn("unchanged", self.import_("two", "--append", "--keep-encoded").stdout)
        self.assertEqual((self.dir / "out.h5").stat().st_mtime_ns, changed)
        self.write_mixed("three", 1, first=90)
        self.assert_refused(self.import_("three", "--append", "--keep-encoded", name="pixels.h5", code=2), "holds decoded images")
        self.assert_refused(self.import_("three", "--append", "--compress", code=2), "--compress")
        self.damage("train/encoded", 10)
        self.assert_refused(self.import_("three", "--append", code=BAD_DATA), "block 0 of /train/encoded")

    def test_append_encoded_to_partitions(self):
        """Rows of the old file and of the inputs lie between each other."""
        files = self.write_mixed("in", 4, classes=("a", "b"))
        self.import_("in", "--keep-encoded", "--partition-by", "class")
        more = self.write_mixed("more", 2, first=50, classes=("a", "b"))
        self.import_("more", "--append", "--partition-by", "class")
        self.assertEqual(self.encoded()[0], files[:4] + more[:2] + files[4:] + more[2:])

    def damage(self, name, place, data=b"damage"):
        with h5py.File(self.dir / "out.h5") as file:
            offset = file[name].id.get_offset()
        with open(self.dir / "out.h5", "r+b") as file:
            file.seek(offset + place)
            before = file.read(len(data))
            file.seek(offset + place)
            file.write(data)
        return before

    def prepare_runs(self, *settings):
        """The same images twice, encoded.h5 and pixels.h5, and a configuration."""
        self.write_mixed("in/train", 30)
        self.write_mixed("in/test", 6, first=100)
        for name, encoded in (("encoded.h5", ["--keep-encoded"]), ("pixels.h5", [])):
            self.import_("in", "--partition-by", "class", *encoded, name=name)
        self.write("config.yaml", harness.CONFIG.replace("{path: images.h5}", "{workers: 3, prefetch: 2, flip: true}")
                   .replace("max_steps: 60", "max_steps: 8").replace("every: 20", "every: 4"))

    def train(self, run, name, ranks, *settings, arguments=()):
        options = [part for setting in (f"data.path={name}", *settings) for part in ("--set", setting)]
        self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", run, *options, *arguments, ranks=ranks)
        evaluations = [(event["step"], event["loss"], event["accuracy"]) for event in self.events(run, "eval")]
        return self.hash(run), self.losses(run), evaluations

    def test_encoded_has_the_bits_of_pixels(self):
        self.prepare_runs()
        settings = ("data.crop_padding=2", "data.mixup=0.3", "data.cutout=2")
        expected = self.train("pixels", "pixels.h5", 1, *settings)
        self.assertEqual(len(expected[2]), 3)
        for ranks in (1, 3):
            self.assertEqual(self.train(f"encoded-{ranks}", "encoded.h5", ranks, *settings), expected)
        resumed = self.train("encoded-3", "encoded.h5", 2, *settings, arguments=("--resume", "encoded-3/checkpoints/step-00000004"))
        self.assertEqual(resumed[:2], expected[:2])
        answers = [json.loads(self.run_lockstep("eval", "--checkpoint", run).stdout) for run in ("pixels", "encoded-1")]
        self.assertEqual(answers[0]["loss"], answers[1]["loss"])
        self.assertEqual(answers[0]["accuracy"], answers[1]["accuracy"])
        where = ("data.where=class == 'b'", "eval.every=0")
        self.assertEqual(self.train("where-encoded", "encoded.h5", 2, *where), self.train("where-pixels", "pixels.h5", 1, *where))

    def test_parts_of_encoded_images(self):
        """Taken of all pixels that there are: other bits than of small images, the same on any number of ranks."""
        self.prepare_runs()
        settings = ("data.resized_crop=0.2", "data.mixup=0.3")
        expected = self.train("alone", "encoded.h5", 1, *settings)
        self.assertNotEqual(self.train("pixels", "pixels.h5", 1, *settings)[0], expected[0])
        self.assertNotEqual(self.train("whole", "encoded.h5", 1, settings[1])[0], expected[0])
        self.assertNotEqual(self.train("seed", "encoded.h5", 1, *settings, "train.seed=9")[0], expected[0])
        self.assertEqual(self.train("four", "encoded.h5", 4, *settings, "data.workers=1"), expected)
        resumed = self.train("four", "encoded.h5", 3, *settings, arguments=("--resume", "four/checkpoints/step-00000004"))
        self.assertEqual(resumed[:2], expected[:2])
        fingerprints = [json.loads((self.dir / run / "env.json").read_text())["fingerprint"] for run in ("alone", "pixels")]
        self.assertRegex(fingerprints[0], ", JPEG [0-9a-f]{16}$")
        self.assertNotIn("JPEG", fingerprints[1])

    def test_damaged_encoded_images(self):
        """Whoever reads a damaged image says which one it is."""
        self.write_mixed("in", 20)
        self.import_("in", "--keep-encoded")
        self.write("config.yaml", harness.CONFIG.replace("images.h5", "out.h5").replace("every: 20", "every: 0"))
        with h5py.File(self.dir / "out.h5") as file:
            places = [int(place) for place in file["train/offsets"]]
        for name, place, data, words in (
                ("train/encoded", places[5] + 30, b"damage", ("sample 5 does not match the hash",)),
                ("train/offsets", 8 * 6, struct.pack("<Q", 1 << 63), ("lies from byte",)),
                ("train/offsets", 8 * 6, struct.pack("<Q", places[7]), ("does not match the hash", "lies from byte"))):
            before = self.damage(name, place, data)
            self.assert_refused(self.run_lockstep("data", "verify", "out.h5", code=BAD_DATA), f"/{name}")
            result = self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", "run", ranks=2, code=BAD_DATA)
            self.assert_refused(result, "out.h5: train sample")
            self.assertTrue(any(word in result.failures[0] for word in words), result.failures[0])
            self.damage(name, place, before)
        self.run_lockstep("data", "verify", "out.h5")


if __name__ == "__main__":
    unittest.main()
