"""Makes the ONNX files of the tests with PyTorch's own exporter, and what PyTorch computes with the networks.

    python experiments/make_torch_onnx.py tests/golden/onnx [--only NAME,...] [--quick]

Needs PyTorch, which nothing else here does. The older exporter (TorchScript's) made three with PyTorch 1.13, as Debian 12 has it;
the newer one, its default since 2.9, made torch_resnet and torch_mobilenet with 2.13 and onnxscript. Weights are drawn at random,
batch norms included, so that nothing in a file can be left out unnoticed. Expected: seconds; --quick makes one of the older.
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


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool = True) -> list:
    """Convolution, batch norm and ReLU6, as torchvision's MobileNets have them."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU6(inplace=True)] if act else [])]


class Mobile(nn.Module):
    """Inverted residuals, with and without the sum, and a mean over pixels before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 6, 3, 2))
        self.first = nn.Sequential(*conv_norm(6, 12, 1), *conv_norm(12, 12, 3, 1, 12), *conv_norm(12, 6, 1, act=False))
        self.second = nn.Sequential(*conv_norm(6, 12, 1), *conv_norm(12, 12, 3, 2, 12), *conv_norm(12, 8, 1, act=False))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.classifier(self.second(x + self.first(x)).mean([2, 3]))


class Basic(nn.Module):
    """A block of ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = short if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


class Resnet(nn.Module):
    """As torchvision's: a max-pool, blocks with and without projection, a pool to one pixel, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Basic(4, 4, 1))
        self.layer2 = nn.Sequential(Basic(4, 6, 2), Basic(6, 6, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActivation(nn.Module):
    """Batch norms before their layers, which serve the mapper alone: a sum lies between the norm and the layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, 1, 1, bias=False)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.conv(F.relu(self.norm(x)))
        return self.fc(x.mean([2, 3]))


def export_new(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    """By the newer exporter, without what it notes about the code that it traced, such as its folders."""
    import onnx

    torch.onnx.export(
        model, (images,), str(path), input_names=["images"], output_names=["logits"], dynamo=True, external_data=False
    )
    document = onnx.load(path)
    for part in (document, document.graph, *document.graph.node, *document.graph.value_info, *document.functions):
        part.ClearField("metadata_props")
    for part in (*document.graph.input, *document.graph.output, *document.graph.initializer):
        part.ClearField("metadata_props")
    onnx.save(document, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", metavar="NAME,...", help="names of files, without their ending")
    args = parser.parse_args()
    folder = args.folder
    torch.manual_seed(0)
    cases = (
        ("torch_residual", Residual(), (2, 3, 16, 16), True),
        ("torch_residual_unfolded", Residual(), (2, 3, 16, 16), False),
        ("torch_plain", Plain(), (2, 1, 16, 16), True),
        ("torch_resnet", Resnet(), (2, 3, 32, 32), None),
        ("torch_mobilenet", Mobile(), (2, 3, 16, 16), None),
        ("torch_preactivation", PreActivation(), (2, 3, 8, 8), None),
    )
    wanted = args.only.split(",") if args.only else [name for name, *_ in (cases[:1] if args.quick else cases)]
    for name, model, shape, folding in cases:
        if name not in wanted:
            continue
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for part in (module.weight.data, module.running_var):
                    part.uniform_(0.5, 1.5)
                for part in (module.bias.data, module.running_mean):
                    part.uniform_(-0.5, 0.5)
        model.eval()
        images = torch.randn(shape)
        with torch.no_grad():
            logits = model(images)
        np.savez(folder / f"{name}.npz", images=images.numpy(), logits=logits.numpy())
        if folding is None:
            export_new(model, images, folder / f"{name}.onnx")
            continue
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


if __name__ == "__main__":
    main()
