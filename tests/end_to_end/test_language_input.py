"""Bad input to language models: the contract's exit code and one clear line, alone and on three ranks."""

import json
import os
import struct
import unittest

from harness import Case

USAGE, BAD_DATA, NO_INPUT, CHECKPOINT, BAD_CONFIG = 2, 65, 66, 76, 78

CONFIG = """\
model: {kind: gpt, layers: 1, heads: 2, width: 16, context: 16}
data: {path: text.h5}
train: {batch: 8, lanes: 8, max_steps: 4}
checkpoint: {every: 2}
runtime: {precision: fp32}
collectives: {timeout: 60}
"""
TEXT = "In the beginning there was a lane, and the lane was with a rank.\n" * 60


def shard(tokens, magic=20240520, version=1, count=None):
    header = struct.pack("<3i", magic, version, len(tokens) if count is None else count).ljust(1024, b"\0")
    return header + struct.pack(f"<{len(tokens)}H", *tokens)


class BadInput(Case):
    def setUp(self):
        super().setUp()
        self.write("text.txt", TEXT)
        self.run_lockstep("data", "import", "text", "text.txt", "-o", "text.h5", "--validation", "0.1")
        self.write("config.yaml", CONFIG)

    def refused(self, *arguments, code, words, ranks=0):
        before = {path for path in self.dir.iterdir()}
        result = self.run_lockstep(*arguments, ranks=ranks, code=code)
        self.assert_refused(result, *words)
        self.assert_no_leftovers()
        return {path.name for path in self.dir.iterdir()} - {path.name for path in before}

    def train_refused(self, *settings, code, words, run="run", config="config.yaml"):
        """Alone and as three ranks, of which one speaks; nothing of a run is left."""
        options = [part for setting in settings for part in ("--set", setting)]
        for ranks in (0, 3):
            with self.subTest(settings=settings, ranks=ranks):
                left = self.refused("train", "-q", "-c", config, "--run-dir", run, *options, code=code, words=words,
                                    ranks=ranks)
                self.assertEqual(left, set())


class BadText(BadInput):
    def import_refused(self, kind, content, *words, code=BAD_DATA, arguments=()):
        """The input is named `bad`; no data set is left."""
        self.write("bad", content)
        with self.subTest(kind=kind, words=words):
            left = self.refused("data", "import", kind, "bad", "-o", "out.h5", *arguments, code=code, words=words)
            self.assertLessEqual(left, {"bad"})

    def test_not_utf8(self):
        for content, offset in ((b"fine \xff", 5), (b"cut off \xe2\x82", 8), (b"a surrogate \xed\xa0\x80", 12),
                                (b"overlong \xc0\xaf", 9), (b"text \xc3\xa4 " * 200000 + b"\x80", 1600000)):
            self.import_refused("text", content, f"bad: offset {offset}:", "UTF-8")
        self.write("folder/a.txt", "fine")
        self.write("folder/b.bin", bytes(range(256)))
        self.refused("data", "import", "text", "folder", "-o", "out.h5", code=BAD_DATA, words=("b.bin: offset 128:",))
        self.refused("tokenizer", "train", "folder", "-o", "out", "--vocab", "300", code=BAD_DATA,
                     words=("b.bin: offset 128:",))
        self.refused("tokenizer", "encode", "folder/b.bin", code=BAD_DATA, words=("b.bin: offset 128:",))

    def test_no_text(self):
        self.import_refused("text", b"", "bad", "empty")
        self.import_refused("text", b"<|endoftext|>\n<|endoftext|>\n", "bad", "nothing but separators")
        self.import_refused("text", b"x", "too few tokens", arguments=("--validation", "0.5"))
        self.import_refused("text", b"one document", "too few documents",
                            arguments=("--validation", "0.5", "--split", "document"))
        (self.dir / "folder").mkdir()
        self.refused("data", "import", "text", "folder", "-o", "out.h5", code=BAD_DATA, words=("folder", "no files"))
        self.write("empty", b"")
        self.write("separators", b"<|endoftext|>\n<|endoftext|>\n")
        for name in ("empty", "separators"):
            self.refused("tokenizer", "train", name, "-o", "out", "--vocab", "300", code=BAD_DATA, words=(name,))
        self.refused("tokenizer", "train", "text.txt", "-o", "out", "--vocab", "256", code=USAGE, words=("257",))

    def test_shards(self):
        self.import_refused("tokens", shard([1, 2], magic=20240521), "bad: offset 0:", "magic")
        self.import_refused("tokens", shard([1, 2], version=2), "bad: offset 4:", "version")
        for count in (3, 1, -1):
            self.import_refused("tokens", shard([1, 2], count=count), "bad: offset 8:")
        self.import_refused("tokens", shard([1, 2])[:-1], "bad: offset 8:")
        self.import_refused("tokens", shard([1, 2])[:1000], "bad", "1024")
        self.import_refused("tokens", b"", "bad", "1024")
        self.import_refused("tokens", shard([]), "bad", "no tokens")
        self.import_refused("tokens", shard([5, 999, 1000]), "bad: offset 1028:", "token 1000", "vocabulary",
                            arguments=("--vocab", "1000"))
        self.import_refused("tokens", shard([5, 257]), "bad: offset 1026:", arguments=("--tokenizer", "bytes"))
        for vocabulary in ("0", "-1", "65537", "1e5"):
            self.import_refused("tokens", shard([1, 2, 3]), "--vocab", code=USAGE, arguments=("--vocab", vocabulary))


class BadTokenizer(BadInput):
    def setUp(self):
        super().setUp()
        for form, name in (("gpt2", "gpt2"), ("tiktoken", "ranks"), ("lockstep", "own")):
            self.run_lockstep("tokenizer", "train", "text.txt", "-o", name, "--vocab", "280", "--format", form)

    def encode_refused(self, *words, path="bad", code=BAD_DATA):
        with self.subTest(words=words):
            self.refused("tokenizer", "encode", "--tokenizer", path, "text.txt", code=code, words=words)
            self.refused("data", "import", "text", "text.txt", "-o", "out.h5", "--tokenizer", path, code=code,
                         words=words)

    def test_gpt2(self):
        merges, vocabulary = ((self.dir / "gpt2" / name).read_bytes() for name in ("vocab.bpe", "encoder.json"))
        lines = merges.count(b"\n")
        for text, json_text, word in (
                (b"", vocabulary, "empty"), (merges + b"zz qq\n", vocabulary, f"line {lines + 1}:"),
                (merges + b"alone\n", vocabulary, f"line {lines + 1}:"), (b"\xff\xfe", vocabulary, "line 1:"),
                (merges + b"a b c\n", vocabulary, f"line {lines + 1}:"), (merges, vocabulary[:100], "encoder.json:1:100"),
                (merges, b"[]", "encoder.json"), (merges, b"{}", "byte 0"), (merges, b'{"a": 1.5}', "ids"),
                (merges + merges.splitlines(keepends=True)[1], vocabulary, "twice")):
            self.write("bad/vocab.bpe", text)
            self.write("bad/encoder.json", json_text)
            self.encode_refused("bad/", word)
        (self.dir / "bad" / "encoder.json").unlink()
        self.encode_refused("encoder.json or vocab.json", code=NO_INPUT)
        (self.dir / "bad" / "vocab.bpe").unlink()
        self.encode_refused("bad", "neither vocab.bpe nor merges.txt", code=NO_INPUT)

    def test_tiktoken(self):
        ranks = (self.dir / "ranks").read_bytes()
        lines = ranks.count(b"\n")
        for text, word in ((ranks[:-4], f"line {lines}:"), (ranks + b"QUJDRA== 5\n", "twice"),
                           (ranks + b"QUJDRA== 999\n", f"line {lines + 1}:"), (ranks + b"QUJ?RA== 279\n", "base64"),
                           (ranks + b"QUJDRA== 99999999999999999999\n", f"line {lines + 1}:"),
                           (ranks.replace(b"AA== 0\n", b""), "bad: ")):
            self.write("bad", text)
            self.encode_refused("bad", word)

    def test_own(self):
        own = json.loads((self.dir / "own").read_text(encoding="utf-8"))
        for change, word in (({"format": 2}, "format"), ({"kind": "wordpiece"}, "tokenizer"), ({"tokens": []}, "byte 0"),
                             ({"tokens": 5}, "no tokens"), ({"merges": [1]}, "pairs"), ({"merges": [1, 99999]}, "merge 0")):
            self.write("bad", json.dumps({**own, **change}))
            self.encode_refused("bad", word)
        self.write("bad", "{")
        self.encode_refused("bad: line 1:")
        self.encode_refused("nowhere", path="nowhere", code=NO_INPUT)

    def test_tokens_to_decode(self):
        for text, word in (("1 2 x", "offset 4"), ("280", "token 280"), ("-1", "offset 0")):
            self.write("bad", text)
            self.refused("tokenizer", "decode", "--tokenizer", "own", "bad", code=BAD_DATA, words=(word,))


class BadTraining(BadInput):
    def test_windows(self):
        self.train_refused("model.context=100000", code=BAD_DATA, words=("train split", "100001"))
        self.train_refused("model.context=400", code=BAD_DATA, words=("validation split", "401"))
        self.run_lockstep("data", "import", "text", "text.txt", "-o", "whole.h5")
        self.train_refused("data.path=whole.h5", code=BAD_CONFIG, words=("eval.every", "whole.h5"))

    def test_models_and_data_that_do_not_fit(self):
        self.train_refused("model.kind=mlp", code=BAD_CONFIG, words=("model.kind", "gpt"))
        self.train_refused("model.width=15", code=BAD_CONFIG, words=("model.width", "model.heads"))
        self.train_refused("train.loss=binary_cross_entropy", code=BAD_CONFIG, words=("train.loss",))
        self.train_refused("eval.metric=accuracy", code=BAD_CONFIG, words=("eval.metric",))
        self.write("table.csv", "a,label\n" + "".join(f"{i},{i % 2}\n" for i in range(100)))
        self.run_lockstep("data", "import", "csv", "table.csv", "-o", "table.h5", "--label", "label", "--validation", "0.2")
        self.train_refused("data.path=table.h5", code=BAD_CONFIG, words=("model.kind gpt", "tokens"))

    def test_damaged_data(self):
        whole = (self.dir / "text.h5").read_bytes()
        self.write("half.h5", whole[: len(whole) // 2])
        self.train_refused("data.path=half.h5", code=BAD_DATA, words=("half.h5",))
        # The text's bytes are there as 16-bit tokens; 0xffff is none of the vocabulary's.
        place = whole.index("In the beginning".encode("utf-16-le"))
        self.write("other.h5", whole[:place] + b"\xff\xff" + whole[place + 2:])
        self.refused("data", "verify", "other.h5", code=BAD_DATA, words=("other.h5", "token"))
        for ranks in (0, 3):
            self.refused("train", "-q", "-c", "config.yaml", "--run-dir", f"run-{ranks}", "--set", "data.path=other.h5",
                         code=BAD_DATA, words=("other.h5",), ranks=ranks)

    def test_another_tokenizer(self):
        """A run goes on with its data alone, and weights with their tokenizer."""
        for name, text in (("one", TEXT), ("two", TEXT.upper())):
            self.write(f"{name}.txt", text)
            self.run_lockstep("tokenizer", "train", f"{name}.txt", "-o", name, "--vocab", "270")
            self.run_lockstep("data", "import", "text", f"{name}.txt", "-o", f"{name}.h5", "-t", name, "--validation", "0.1")
        self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", "run", "--set", "data.path=one.h5")
        for ranks in (0, 3):
            for arguments, words in ((("--run-dir", "run"), ("root hash", "two.h5")),
                                     (("--run-dir", f"new-{ranks}", "--set", "train.init_from=run"),
                                      ("train.init_from", "tokenizer", "two.h5"))):
                self.refused("train", "-q", "-c", "config.yaml", "--set", "data.path=two.h5", *arguments, ranks=ranks,
                             code=CHECKPOINT, words=words)
            self.refused("eval", "--checkpoint", "run", "--set", "data.path=two.h5", ranks=ranks, code=CHECKPOINT,
                         words=("two.h5",))
            self.refused("eval", "--checkpoint", "run", "--split", "test", ranks=ranks, code=BAD_DATA, words=("test split",))
        self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", "tuned", "--set", "data.path=one.h5", "--set",
                          "train.init_from=run")


class BadGeneration(BadInput):
    def setUp(self):
        super().setUp()
        self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", "run")

    def test_options(self):
        for flag, values in {"temperature": ("-1", "nan", "inf", "hot"), "top-p": ("-0.1", "1.1", "nan"),
                             "top-k": ("-1", "1.5"), "max-tokens": ("0", "-3", "99999999999999999999"),
                             "seed": ("-1", "x")}.items():
            for value in values:
                self.refused("generate", "--checkpoint", "run", f"--{flag}", value, code=USAGE, words=(f"--{flag}", value))
        self.refused("generate", "--checkpoint", "run", "--prompt", os.fsdecode(b"ab\xff"), code=BAD_DATA,
                     words=("--prompt: offset 2:",))
        self.refused("generate", "--checkpoint", "run", ranks=3, code=USAGE, words=("mpirun",))
        self.refused("generate", "--checkpoint", "run", "--set", "model.context=99", code=CHECKPOINT,
                     words=("model.context",))

    def test_what_is_no_language_model(self):
        self.refused("generate", "--checkpoint", "nowhere", code=NO_INPUT, words=("nowhere",))
        self.refused("generate", "--checkpoint", "text.txt", code=CHECKPOINT, words=("text.txt",))
        self.refused("predict", "--checkpoint", "run", "text.txt", code=USAGE, words=("lockstep generate",))

    def test_no_words(self):
        """Tokens that came without a tokenizer can be trained on, and not written out."""
        self.write("shard", shard([i * i % 300 for i in range(1000)]))
        self.run_lockstep("data", "import", "tokens", "shard", "-o", "shard.h5", "--vocab", "300", "--validation", "0.2")
        self.run_lockstep("train", "-q", "-c", "config.yaml", "--run-dir", "numbers", "--set", "data.path=shard.h5")
        self.refused("generate", "--checkpoint", "numbers", code=BAD_DATA, words=("tokenizer",))


if __name__ == "__main__":
    unittest.main()
