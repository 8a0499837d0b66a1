"""gloo's all-reduce, timed as `lockstep bench allreduce` does it: allreduce_torch.py CALLS WINDOWS BYTES... prints a line of JSON,
{"BYTES": seconds of one call, …}. RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say who it is."""
import json
import statistics
import sys
import time

import torch
import torch.distributed as dist


def time_window(tensor, calls):
    dist.barrier()
    start = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(tensor)
    slowest = torch.tensor([(time.perf_counter() - start) / calls], dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.item()


def main():
    calls, windows, sizes = int(sys.argv[1]), int(sys.argv[2]), [int(word) for word in sys.argv[3:]]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result = {}
    for size in sizes:
        tensor = torch.zeros(size // 4)  # gloo works in place: other numbers would overflow
        time_window(tensor, 5)
        result[size] = statistics.median(time_window(tensor, calls) for _ in range(windows))
    if dist.get_rank() == 0:
        print(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
