"""Shuffled rows per second through torch's DataLoader over h5py: one row an item, or whole sorted batches ("batched").

python3 loader_torch.py DATA.h5 BATCH BATCHES WORKERS single|batched
"""
import json
import sys
import time

import h5py
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler


class Rows(Dataset):
    def __init__(self, path):
        self.path, self.file = path, None
        with h5py.File(path) as f:
            self.count = len(f["train/x"])

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if self.file is None:  # each worker opens the file for itself
            self.file = h5py.File(self.path)
        index = sorted(index) if isinstance(index, list) else index
        return torch.as_tensor(self.file["train/x"][index]), torch.as_tensor(self.file["train/y"][index])


def main():
    path, batch, batches, workers, how = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
    rows = Rows(path)
    if how == "batched":
        sampler = BatchSampler(RandomSampler(rows), batch, drop_last=True)
        loader = DataLoader(rows, sampler=sampler, batch_size=None, num_workers=workers)
    else:
        loader = DataLoader(rows, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers)
    iterator = iter(loader)
    next(iterator)
    start, done = time.perf_counter(), 0
    for _ in range(batches):
        if next(iterator, None) is None:
            break
        done += 1
    print(json.dumps({"peer": f"torch {torch.__version__} {how}", "rows_per_second": done * batch / (time.perf_counter() - start),
                      "batch": batch, "workers": workers}))


if __name__ == "__main__":
    main()
