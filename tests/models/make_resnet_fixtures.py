#!/usr/bin/python3
"""Writes resnet_fixtures.json and resnet_fixtures.f32: what PyTorch computes for narrow ResNets, that the tests
compare ours with.

Run by hand when a case changes (Debian's python3-torch); the tests only read the files. Weights, images and
running statistics come from a formula that the test has as well: numbers of few bits, which devices of all
precisions hold exactly. The second file has every tensor's gradient as float32, of running statistics what
backward says of the batch's. Computed in float64.
"""
import itertools
import json
import os
import sys

import numpy
import torch
from torch.nn import functional as F

CASES = [dict(name="18 small", depth=18, stem="small", multiplier=1 / 16, rows=5, height=13, width=10, channels=3,
              classes=4, smoothing=0.0),
         dict(name="50 imagenet", depth=50, stem="imagenet", multiplier=1 / 32, rows=7, height=43, width=38,
              channels=1, classes=3, smoothing=0.125)]
MARGIN = 2e-5  # twenty times what errors of FP32 make of an activation
SEED = 1000  # numbers of tensors that a seed has
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def integers(tensor, count):
    """`count` integers from -127 to 127: of a tensor's number, by the finalizer of MurmurHash3."""
    z = (numpy.arange(count, dtype=numpy.uint64) + 1) * 0x9E3779B1 + tensor * 0x85EBCA6B & 0xFFFFFFFF
    for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        z = ((z ^ z >> shift) * multiplier) & 0xFFFFFFFF
    z ^= z >> 16
    return (z % 255).astype(numpy.int64) - 127


class Net:
    """Tensors in the order of our flat buffer, and the net that they make."""

    def __init__(self, case, seed):
        self.case, self.first, self.tensors, self.names, self.values = case, SEED * seed, [], [], {}

    def add(self, name, shape, offset, bits):
        """offset + i / 2^bits, for filters; for the others only i / 8 counts."""
        if name not in self.values:
            i = integers(self.first + len(self.names), int(numpy.prod(shape)))
            if len(shape) < 4:
                i = i // 8  # rounded down
            value = torch.from_numpy(i / 2.0 ** bits).view(shape)
            if name.endswith("running"):
                value = value + torch.tensor([0.0, 1.0])
            self.values[name] = (value + offset).requires_grad_()
            self.names.append(name)
            self.tensors.append(dict(name=name, offset=offset, bits=bits, elements=value.numel()))
        return self.values[name]

    def unit(self, x, conv, norm, out, kernel, stride, residual=None, activate=True):
        fan = out * kernel * kernel
        bits = round(float(numpy.log2(73 / numpy.sqrt(2 / fan))))  # 73: the integers' deviation
        weight = self.add(conv + ".weight", (out, kernel, kernel, x.shape[1]), 0, bits)
        # What a block adds is small, so that errors do not grow from block to block: in deep nets of other
        # weights FP32 alone is off by 10^-4 in the outputs.
        gamma = self.add(norm + ".weight", (out,), 1 if residual is None else 0.25, 6 if residual is None else 7)
        beta = self.add(norm + ".bias", (out,), 0, 6)
        running = self.add(norm + ".running", (out, 2), 0, 6)
        y = F.conv2d(x, weight.permute(0, 3, 1, 2), stride=stride, padding=(kernel - 1) // 2)
        if self.train:
            mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
            distance = (mean - running[:, 0]).detach()
            self.statistics[norm + ".running"] = torch.stack([distance, variance.detach() + distance ** 2], 1)
            y = F.batch_norm(y, None, None, gamma, beta, True, 0.0, 1e-5)
        else:
            y = F.batch_norm(y, running[:, 0].detach(), running[:, 1].detach(), gamma, beta, False, 0.0, 1e-5)
        if residual is not None:
            y = y + residual
        if activate:
            self.margin = min(self.margin, y.abs().min().item())
        return F.relu(y) if activate else y

    def block(self, x, name, channels, stride):
        bottleneck = self.case["depth"] == 50
        out = 4 * channels if bottleneck else channels
        shortcut = x
        if stride != 1 or x.shape[1] != out:
            shortcut = self.unit(x, name + ".downsample.0", name + ".downsample.1", out, 1, stride, activate=False)
        plan = [(channels, 3, stride), (channels, 3, 1)]
        if bottleneck:
            plan = [(channels, 1, 1), (channels, 3, stride), (out, 1, 1)]
        for u, (width, kernel, step) in enumerate(plan, 1):
            residual = shortcut if u == len(plan) else None
            x = self.unit(x, "%s.conv%d" % (name, u), "%s.bn%d" % (name, u), width, kernel, step, residual)
        return x

    def forward(self, x, train):
        self.train, self.statistics, self.margin = train, {}, 1.0
        channels = int(64 * self.case["multiplier"])
        small = self.case["stem"] == "small"
        x = self.unit(x, "conv1", "bn1", channels, 3 if small else 7, 1 if small else 2)
        if not small:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage, blocks in enumerate(BLOCKS[self.case["depth"]]):
            for b in range(blocks):
                x = self.block(x, "layer%d.%d" % (stage + 1, b), channels << stage, 2 if stage and not b else 1)
        weight = self.add("fc.weight", (self.case["classes"], x.shape[1]), 0, 5)
        return F.linear(x.mean((2, 3)), weight, self.add("fc.bias", (self.case["classes"],), 0, 6))


def numbers(tensor):
    return [float("%.9g" % v) for v in tensor.detach().flatten().tolist()]


def compute(case, seed):
    """None where some ReLU's input is so near to 0 that rounding errors of FP32 would decide its gradient."""
    shape = (case["rows"], case["height"], case["width"], case["channels"])
    images = torch.from_numpy(integers(SEED * seed + SEED - 1, int(numpy.prod(shape))) / 64.0).view(shape).permute(0, 3, 1, 2)
    labels = torch.arange(case["rows"]) % case["classes"]
    net = Net(case, seed)
    loss = dict(reduction="none", label_smoothing=case["smoothing"])
    outputs = net.forward(images, True)
    if net.margin < MARGIN:
        return None
    losses = F.cross_entropy(outputs, labels, **loss)
    losses.mean().backward()
    gradients = [net.statistics.get(n, net.values[n].grad) for n in net.names]
    evaluated = net.forward(images, False)
    result = dict(case, first=net.first, images=SEED * seed + SEED - 1, tensors=net.tensors, outputs=numbers(outputs), losses=numbers(losses),
                  evaluated=numbers(evaluated), evaluated_losses=numbers(F.cross_entropy(evaluated, labels, **loss)))
    return result, torch.cat([g.flatten() for g in gradients]).numpy()


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "resnet_fixtures")
    found = (next(filter(None, (compute(case, seed) for seed in itertools.count()))) for case in CASES)
    cases, flat = zip(*found)
    with open(path + ".json", "w") as out:
        json.dump(dict(torch=torch.__version__, cases=cases), out, separators=(",", ":"))
        out.write("\n")
    numpy.concatenate(flat).astype(numpy.dtype("<f4")).tofile(path + ".f32")
    for suffix in (".json", ".f32"):
        print(path + suffix, os.path.getsize(path + suffix), "bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
