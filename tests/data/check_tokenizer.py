# Tokenizer commands against a plain reference in Python: training merge by merge, encoding token by token, and back.
# With --gpt2 instead: GPT-2's own ranks, where LOCKSTEP_GPT2_RANKS names a tiktoken file of them or the source archive
# of openai-whisper from PyPI.
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import bpe_reference as reference

PROGRAM, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])


def lockstep(*arguments, data=None):
    return subprocess.run([PROGRAM, "tokenizer", *arguments], input=data, capture_output=True, check=True).stdout


def encode(tokenizer, text):
    return [int(token) for token in lockstep("encode", "--tokenizer", tokenizer, data=text.encode()).split()]


def check_encoding(tokenizer, text, expected):
    tokens = encode(tokenizer, text)
    for i, (got, want) in enumerate(zip(tokens, expected)):
        assert got == want, f"token {i}: {got}, expected {want}, after {tokens[max(i - 5, 0):i]}"
    assert len(tokens) == len(expected), (len(tokens), len(expected))
    data = " ".join(map(str, tokens)).encode()
    assert lockstep("decode", "--tokenizer", tokenizer, data=data) == text.encode()


def real_text():
    files = sorted(SOURCE.glob("docs/*.md")) + sorted(SOURCE.glob("runtime/data/*.c"))
    return "".join(path.read_text() for path in files)


def check_trained(directory):
    text = (SOURCE / "docs/data.md").read_text() + (SOURCE / "docs/checkpoints.md").read_text()
    source, trained = f"{directory}/text", f"{directory}/trained.json"
    pathlib.Path(source).write_text(text)
    tokens, merges = reference.train(text, 700)
    lockstep("train", source, "-o", trained, "--vocab", "700")
    made = json.loads(pathlib.Path(trained).read_text())
    assert [tuple(made["merges"][i : i + 2]) for i in range(0, len(made["merges"]), 2)] == merges
    assert len(made["tokens"]) == 700 and made["tokens"][699] is None and len(tokens) == 699
    for text in (real_text(), reference.hard_text(1, 20000), ""):
        check_encoding(trained, text, reference.encode_merges(text, merges))
    for form, name in (("gpt2", "folder"), ("tiktoken", "ranks")):
        lockstep("train", source, "-o", f"{directory}/{name}", "--vocab", "700", "--format", form)
    text = real_text()
    ranks = {token: i for i, token in enumerate(tokens)}
    check_encoding(f"{directory}/folder", text, reference.encode_merges(text, merges))
    check_encoding(f"{directory}/ranks", text, reference.encode_ranks(text, ranks))
    print(f"{len(merges)} merges and three formats agree with the reference")


def check_gpt2(directory):
    if not os.environ.get("LOCKSTEP_GPT2_RANKS"):
        print("skipped: LOCKSTEP_GPT2_RANKS names no file of GPT-2's ranks (openai-whisper's source archive has one)")
        sys.exit(77)
    ranks, data = reference.read_ranks(os.environ["LOCKSTEP_GPT2_RANKS"])
    assert len(ranks) == 50256
    path = pathlib.Path(directory, "gpt2.tiktoken")
    path.write_bytes(data)
    # Known from the published model.
    assert encode(str(path), "Hello world") == [15496, 995]
    for text in (real_text(), reference.hard_text(2, 50000), "Hello, world! It's   2024.\n\n\tYou'll see…"):
        check_encoding(str(path), text, reference.encode_ranks(text, ranks))
    print("GPT-2's tokens agree with the reference")


with tempfile.TemporaryDirectory() as scratch:
    check_gpt2(scratch) if "--gpt2" in sys.argv else check_trained(scratch)
