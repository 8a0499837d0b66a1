# Reads with h5py what write_example_dataset wrote: every set by name, shape, type and value.
import json
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

SPLITS = {"train": 0, "validation": 1, "test": 2}


def expected_u8(samples, split):
    s = np.arange(samples, dtype=np.uint64)[:, None]
    i = np.arange(20, dtype=np.uint64)[None, :]
    x = (s * 31 + i * 7 + split * 101 + (s >> 8)).astype(np.uint8).reshape(samples, 4, 5)
    return x, ((np.arange(samples) + split) % 3).astype(np.int32)


def expected_f32(samples, split):
    s = np.arange(samples, dtype=np.float32)[:, None]
    i = np.arange(7, dtype=np.float32)[None, :]
    x = (s * np.float32(0.5) + i * np.float32(0.001)) - np.float32(split)
    return x, s - np.arange(2, dtype=np.float32)[None, :]


def check(path, expected, sizes, deflated):
    with h5py.File(path, "r") as file:
        schema = json.loads(file["schema"][()])
        assert schema["format"] == 1 and len(schema["root_hash"]) == 32, schema
        assert set(file) == set(sizes) | {"schema"}, list(file)
        for split, samples in sizes.items():
            x, y = file[split]["x"], file[split]["y"]
            want_x, want_y = expected(samples, SPLITS[split])
            assert x.compression == ("gzip" if deflated else None), x.compression
            assert x.dtype == want_x.dtype and y.dtype == want_y.dtype, (x.dtype, y.dtype)
            assert np.array_equal(x[:], want_x) and np.array_equal(y[:], want_y), split
            assert schema["splits"][split]["samples"] == samples
            assert file[split]["x.hashes"].shape == (-(-want_x.nbytes // (1 << 20)), 16)
            if deflated:
                table = file[split]["x.chunks"][:]
                info = x.id.get_chunk_info(0)
                assert (table["offset"][0], table["bytes"][0]) == (info.byte_offset, info.size)


with tempfile.TemporaryDirectory() as directory:
    subprocess.run([sys.argv[1], directory], check=True)
    for layout in ("plain", "deflated"):
        check(f"{directory}/u8-{layout}.h5", expected_u8, {"train": 1700, "validation": 3, "test": 40}, layout == "deflated")
        check(f"{directory}/f32-{layout}.h5", expected_f32, {"train": 50000, "test": 1}, layout == "deflated")
print("h5py reads all sets")
