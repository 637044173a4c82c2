"""Makes the ONNX files of the tests with PyTorch's own exporter, and what PyTorch computes with the networks.

    python experiments/make_torch_onnx.py tests/golden/onnx [--quick]

Needs PyTorch, which nothing else here does (made with 1.13, as Debian 12 has it). Weights are drawn at random, batch norms
included, so that nothing in a file can be left out unnoticed. Expected: seconds; --quick makes one of the three.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """A strided depthwise block, a residual block with projection, and a classifier behind `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 5, 1, 2, groups=8, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(8, eps=1e-3)
        self.first = nn.Conv2d(8, 12, 3, 2, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 12, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(12)
        self.down = nn.Conv2d(8, 12, 1, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = F.hardswish(self.depthwise_norm(self.depthwise(x)))
        y = F.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y)) + self.down(x)
        y = self.pool(F.relu(y))
        return self.fc(y.view(y.size(0), -1))


class Plain(nn.Module):
    """As textbooks write it: ReLU behind the pool, flattened images, dropout, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.left = nn.Conv2d(6, 4, 3, padding=1)
        self.right = nn.Conv2d(6, 3, 1)
        self.fc1 = nn.Linear(7 * 3 * 3, 20)
        self.fc2 = nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = torch.cat([F.relu(self.left(x)), torch.clamp(self.right(x), 0, 2)], dim=1)
        x = torch.flatten(F.avg_pool2d(x, 2), 1)
        x = F.dropout(F.relu(self.fc1(x)), training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    folder = args.folder
    torch.manual_seed(0)
    cases = (
        ("torch_residual", Residual(), (2, 3, 16, 16), True),
        ("torch_residual_unfolded", Residual(), (2, 3, 16, 16), False),
        ("torch_plain", Plain(), (2, 1, 16, 16), True),
    )
    for name, model, shape, folding in cases[:1] if args.quick else cases:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for part in (module.weight.data, module.running_var):
                    part.uniform_(0.5, 1.5)
                for part in (module.bias.data, module.running_mean):
                    part.uniform_(-0.5, 0.5)
        model.eval()
        images = torch.randn(shape)
        torch.onnx.export(
            model,
            images,
            str(folder / f"{name}.onnx"),
            opset_version=14 if folding else 13,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            do_constant_folding=folding,
            training=torch.onnx.TrainingMode.EVAL if folding else torch.onnx.TrainingMode.PRESERVE,
        )
        with torch.no_grad():
            logits = model(images)
        np.savez(folder / f"{name}.npz", images=images.numpy(), logits=logits.numpy())


if __name__ == "__main__":
    main()
