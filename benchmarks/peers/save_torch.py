#!/usr/bin/env python3
"""torch.save with fsync of the tensors of a Lockstep checkpoint: seconds of each save, as JSON.

  save_torch.py CHECKPOINT FILE SAVES
"""
import json
import os
import sys
import time

import torch

checkpoint, path, saves = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(os.path.join(checkpoint, "manifest.json"), encoding="utf-8") as manifest:
    tensors = json.load(manifest)["tensors"]
state = {f"{t['group']}/{t['name']}": torch.randn(t["shape"]) for t in tensors}
seconds = []
for _ in range(saves):
    begun = time.perf_counter()
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    seconds.append(time.perf_counter() - begun)
    os.unlink(path)
print(json.dumps({"seconds": seconds, "version": torch.__version__}))
