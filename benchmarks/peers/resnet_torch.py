"""The PyTorch side of benchmarks/resnet.py: the same network, batch, precision and optimizer on CPU cores, timed per step
(torch_steps.py), from images of 8 bits in memory."""
import argparse

import torch
import torch.nn as nn

import torch_steps
from resnet_model import resnet


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--depth", type=int, default=18)
    p.add_argument("--stem", default="small", choices=["small", "imagenet"])
    p.add_argument("--side", type=int, default=32)
    p.add_argument("--classes", type=int, default=10)
    p.add_argument("--channels-last", action="store_true")
    torch_steps.add_arguments(p, batch=64, steps=10, warm_up=5)
    a = p.parse_args()
    torch_steps.begin(a)
    layout = torch.channels_last if a.channels_last else torch.contiguous_format
    model = resnet(a.depth, a.stem == "small", 3, a.classes).to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True, **torch_steps.fastest())
    rows = a.batch // torch_steps.RANKS
    data = torch.randint(0, 256, (4, rows, 3, a.side, a.side), dtype=torch.uint8)
    labels = torch.randint(0, a.classes, (4, rows))

    def batch(step):
        images = (data[step % 4].float() - 127.5) / 74
        return images.contiguous(memory_format=layout), labels[step % 4]

    torch_steps.run(a, model, optimizer, batch, lambda trained, taken: nn.functional.cross_entropy(trained(taken[0]), taken[1]))


if __name__ == "__main__":
    main()
