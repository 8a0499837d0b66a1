"""Headers of MPI, HDF5, oneDNN and CUDA appear only in the files named for them; launch includes none.

usage: library_headers.py SOURCE_ROOT
"""

import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)

# Library: (headers of it, files that may include them).
LIBRARIES = {
    "MPI": (re.compile(r"^mpi"), re.compile(r"^collectives/(.*/)?mpi[^/]*\.[ch]$")),
    "HDF5": (
        re.compile(r"^(hdf5|H5)"),
        re.compile(r"^runtime/(data|train)/(.*/)?([a-z0-9_]+_)?(hdf5|h5)(_[a-z0-9_]+)?\.[ch]$"),
    ),
    "oneDNN": (re.compile(r"dnnl"), re.compile(r"^runtime/device/cpu/onednn[^/]*\.[ch]$")),
    "CUDA": (
        re.compile(r"^(cuda|cublas|cudnn|nccl|nvtx|nvml)"),
        re.compile(r"^(runtime/device/cuda|collectives/nccl)[^ ]*\.(c|h|cu|cuh)$"),
    ),
    "libjpeg-turbo": (re.compile(r"^(turbojpeg|jpeglib)"), re.compile(r"^runtime/data/image_jpeg\.c$")),
    "libpng": (re.compile(r"^png"), re.compile(r"^runtime/data/image_png\.c$")),
}
FOLDERS = ("runtime", "collectives", "models", "launch")


def violations(root):
    """Yields a sentence for every include in a file not named for the library."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in (".c", ".h", ".cu", ".cuh"):
                continue
            name = path.relative_to(root).as_posix()
            for header in INCLUDE.findall(path.read_text(encoding="utf-8")):
                for library, (pattern, allowed) in LIBRARIES.items():
                    if pattern.search(header) and not allowed.match(name):
                        yield f"{name} includes {header} of {library}"


def users(root):
    """The libraries that some file includes: a check that the patterns still find anything."""
    found = set()
    for folder in FOLDERS:
        for path in (root / folder).rglob("*.[ch]"):
            for header in INCLUDE.findall(path.read_text(encoding="utf-8")):
                found |= {library for library, (pattern, _) in LIBRARIES.items() if pattern.search(header)}
    return found


def main():
    root = pathlib.Path(sys.argv[1])
    found = list(violations(root))
    for sentence in found:
        print(sentence)
    unseen = {"MPI", "HDF5", "oneDNN", "libjpeg-turbo", "libpng"} - users(root)
    for library in sorted(unseen):
        print(f"no file includes {library}: the patterns of this test no longer match")
    return 1 if found or unseen else 0


if __name__ == "__main__":
    sys.exit(main())
