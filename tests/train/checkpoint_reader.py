# What lockstep writes is found by name and shape in h5py, and by the reader in docs/checkpoints.md.
#   checkpoint_reader.py PROGRAM DOCUMENT
import ctypes, re, subprocess, sys, tempfile, types

try:
    import h5py, numpy
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

shapes = {
    "embed.weight": (37, 300), "layers.0.weight": (128, 784), "layers.0.bias": (128,), "full": (4096,),
    "more": (4097,), "conv.weight": (8, 4, 3, 3), "layers.10.bias": (1,),
}
groups = ["parameters", "optimizer/moment1", "optimizer/moment2"]

program, document = sys.argv[1:]
with tempfile.TemporaryDirectory() as directory:
    printed = subprocess.run([program, "save", directory + "/run", "10"], check=True, capture_output=True, text=True)
    path = directory + "/run/checkpoints/step-00000010"

    with h5py.File(path + "/state.h5", "r") as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        assert sorted(found) == sorted(f"{g}/{n}" for g in groups for n in shapes), sorted(found)
        for name, item in found.items():
            assert item.shape == shapes[name.split("/")[-1]], (name, item.shape)
            assert item.dtype == numpy.dtype("<f4"), (name, item.dtype)
            assert item.chunks is None and item.id.get_offset() % 4096 == 0, name

        # The reader of the documentation, as it is printed there.
        code = re.search(r"```python\n(.*?)```", open(document, encoding="utf-8").read(), re.S).group(1)
        assert len(code.splitlines()) <= 40, "the reader is short"
        names = {}
        exec(compile(code, document, "exec"), names)
        if names["xxhash"] is None:  # the C library is there, since lockstep needs it
            library = ctypes.CDLL("libxxhash.so.0")
            library.XXH3_64bits.restype = ctypes.c_uint64
            library.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
            names["xxhash"] = types.SimpleNamespace(
                xxh3_64_hexdigest=lambda data: f"{library.XXH3_64bits(data, len(data)):016x}")
        manifest, tensors = names["read_checkpoint"](path)
        assert manifest["step"] == 10 and manifest["config"]["optimizer.lr"].startswith("0.012")
        for name, item in found.items():
            assert tensors[name].tobytes() == item[()].tobytes(), name

    # The checkpoint hash, from its description.
    assert names["checkpoint_hash"](manifest, tensors) == printed.stdout.strip(), printed.stdout

    # The reader sees damage.
    for file, offset in (("state.h5", manifest["tensors"][0]["offset"]), ("manifest.json", 40)):
        with open(f"{path}/{file}", "r+b") as damaged:
            damaged.seek(offset)
            byte = damaged.read(1)[0]
            damaged.seek(offset)
            damaged.write(bytes([byte ^ 1]))
        try:
            names["read_checkpoint"](path)
        except (AssertionError, ValueError):
            pass
        else:
            sys.exit(f"damage in {file} was not seen")
        with open(f"{path}/{file}", "r+b") as damaged:
            damaged.seek(offset)
            damaged.write(bytes([byte]))
        names["read_checkpoint"](path)
print("passed")
