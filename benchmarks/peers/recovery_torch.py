"""The PyTorch side of benchmarks/recovery.py: an MLP under `torchrun --max-restarts`, DDP over gloo, that saves every few steps and
goes on from what it has saved. Rank 0 appends a line of JSON to --progress for each step: {"attempt": N, "step": N}."""
import argparse
import json
import os

import torch
import torch.distributed as dist
import torch.nn as nn

from mlp_torch import build


def save(path, model, optimizer, step):
    """Replaced as a whole, so that a kill leaves the old one or the new one; not synced, which is in its favour."""
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path + ".new")
    os.replace(path + ".new", path)


def store_of(attempt):
    """The agent's store outlives the workers. Without a prefix for each attempt, PyTorch 2.15's gloo finds the addresses of
    the dead ones in it and no restart ever succeeds."""
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return dist.PrefixStore(f"attempt-{attempt}", store)


def main():
    p = argparse.ArgumentParser()
    for name in ("batch", "width", "layers", "inputs", "every"):
        p.add_argument(f"--{name}", type=int, required=True)
    p.add_argument("--progress", required=True)
    p.add_argument("--saved", required=True)
    a = p.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    dist.init_process_group("gloo", store=store_of(attempt), rank=rank, world_size=ranks)
    model = build(a.inputs, a.width, a.layers, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = 0
    if os.path.exists(a.saved):
        state = torch.load(a.saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    trained = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    rows = a.batch // ranks
    data, labels = torch.randn(16 * rows, a.inputs), torch.randint(0, 10, (16 * rows,))
    with open(a.progress, "a", encoding="ascii") as progress:
        while True:
            at = (step % 16) * rows
            loss = nn.functional.cross_entropy(trained(data[at:at + rows]), labels[at:at + rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            step += 1
            if rank == 0:
                progress.write(json.dumps({"attempt": attempt, "step": step}) + "\n")
                progress.flush()
                if step % a.every == 0:
                    save(a.saved, model, optimizer, step)


if __name__ == "__main__":
    main()
