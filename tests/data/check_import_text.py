# The commands that import text and token shards: exit codes, one line for each failure, and what h5py sees.
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

PROGRAM = sys.argv[1]
TEXT = "In the beginning God created the heaven and the earth.\n" * 40


def run(*arguments, code=0, says=""):
    result = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stderr)
    output = result.stderr if code else result.stdout
    assert says in output and (not code or output.count("\n") == 1), (arguments, output)
    return result.stdout


def shard(path, tokens, magic=20240520, count=None):
    header = struct.pack("<3i", magic, 1, len(tokens) if count is None else count).ljust(1024, b"\0")
    path.write_bytes(header + np.array(tokens, "<u2").tobytes())


def check_text(folder):
    source, output, tokenizer = folder / "text", folder / "text.h5", folder / "tokenizer.json"
    source.write_text(TEXT)
    run("tokenizer", "train", str(source), "-o", str(tokenizer), "--vocab", "280", says="280 tokens")
    arguments = ["data", "import", "text", str(source), "-o", str(output), "--validation", "0.1", "-t", str(tokenizer)]
    run(*arguments, says="imported; ")
    run(*arguments, says="unchanged, nothing to do; ")
    run("data", "verify", str(output), says="are right")
    assert "vocabulary  280, tokenizer bpe" in run("data", "inspect", str(output))
    expected = [int(t) for t in run("tokenizer", "encode", "-t", str(tokenizer), str(source)).split()] + [279]
    with h5py.File(output) as file:
        tokens = np.concatenate([file["train/tokens"][:], file["validation/tokens"][:]])
        assert tokens.dtype == np.dtype("<u2") and tokens.tolist() == expected
        schema = json.loads(file["schema"][()])
        assert schema["tokenizer"] == json.loads(tokenizer.read_text())
        assert sum(schema["text_bytes"].values()) == len(TEXT)
        assert len(file["validation/tokens"]) == round(0.1 * len(expected))


def check_refusals(folder):
    output, bad = str(folder / "bad.h5"), folder / "bad"
    for data, says in ((b"", "empty"), (b"ab\xff", "offset 2"), (b"", "empty")):
        bad.write_bytes(data)
        run("data", "import", "text", str(bad), "-o", output, code=65, says=says)
    bad.write_bytes(b"{")
    source = str(folder / "text")
    run("data", "import", "text", source, "-o", output, "-t", str(bad), code=65, says="bad: line 1")
    run("data", "import", "text", source, "-o", output, "--split", "middle", code=2, says="tail, document")
    run("data", "import", "text", source, "-o", output, "--validation", "1", code=2, says="below 1")
    run("data", "import", "text", str(folder / "none"), "-o", output, code=66, says="none")
    run("tokenizer", "encode", str(folder / "none"), code=66, says="none")
    run("tokenizer", "train", source, "-o", output, "--vocab", "256", code=2, says="at least 257")
    run("tokenizer", "decode", "-t", "bytes", str(bad), code=65, says="whole numbers")
    bad.write_text("65 257")
    run("tokenizer", "decode", str(bad), code=65, says="token 257")
    assert not pathlib.Path(output).exists()


def check_shards(folder):
    good, bad, output = folder / "good.bin", folder / "bad.bin", str(folder / "shards.h5")
    shard(good, range(1000))
    command = ["data", "import", "tokens", str(good), "-o", output]
    run(*command, "--validation-shards", str(good), says="1000 training, 1000 validation tokens of a vocabulary of 50257")
    run("data", "verify", output, says="are right")
    run(*command, "--vocab", "999", code=65, says="offset 3022")
    shard(bad, range(1000), count=1001)
    run(*command, str(bad), code=65, says="bad.bin: offset 8")
    shard(bad, range(1000), magic=1)
    run(*command, "--validation-shards", str(bad), code=65, says="bad.bin: offset 0")


with tempfile.TemporaryDirectory() as scratch:
    check_text(pathlib.Path(scratch))
    check_refusals(pathlib.Path(scratch))
    check_shards(pathlib.Path(scratch))
print("text and shards are imported, or refused in one line")
