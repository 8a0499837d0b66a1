"""The ResNets of benchmarks/resnet (He et al., CVPR 2016; version 1.5) in PyTorch, as configurations of Lockstep describe them."""
import torch.nn as nn

DEPTHS = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}


def convolution(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)


class Block(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        plan = [(width, 1, 1), (width, 3, stride), (outputs, 1, 1)] if bottleneck else [(width, 3, stride), (width, 3, 1)]
        layers = []
        for number, (out, kernel, step) in enumerate(plan):
            layers += [convolution(layers[-2].num_features if layers else inputs, out, kernel, step), nn.BatchNorm2d(out)]
            if number + 1 < len(plan):
                layers.append(nn.ReLU(inplace=True))
        self.units = nn.Sequential(*layers)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.outputs = outputs

    def forward(self, x):
        return nn.functional.relu(self.units(x) + self.shortcut(x), inplace=True)


def resnet(depth, small, channels, classes):
    counts, bottleneck = DEPTHS[depth]
    stem = [convolution(channels, 64, 3)] if small else [convolution(channels, 64, 7, 2)]
    layers = stem + [nn.BatchNorm2d(64), nn.ReLU(inplace=True)] + ([] if small else [nn.MaxPool2d(3, 2, 1)])
    inputs = 64
    for stage, count in enumerate(counts):
        for number in range(count):
            layers.append(Block(inputs, 64 << stage, 2 if stage > 0 and number == 0 else 1, bottleneck))
            inputs = layers[-1].outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
