"""The architectures of torchvision's vgg16, squeezenet1_1, resnet50 and inception_v3 (without its auxiliary classifier), with
torchvision's names of modules: what `brew import` is checked against."""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

T = torch.Tensor


class Vgg16(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c = 3
        for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [nn.Conv2d(c, width, 3, padding=1), nn.ReLU()]
                c = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1000))

    def forward(self, x: T) -> T:
        return self.classifier(self.features(x).flatten(1))


class Fire(nn.Module):
    def __init__(self, c: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze, self.expand1x1, self.expand3x3 = nn.Conv2d(c, squeeze, 1), nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: T) -> T:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        pool = [nn.MaxPool2d(3, 2, ceil_mode=True) for _ in range(3)]
        self.features = nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool[0], Fire(64, 16, 64), Fire(128, 16, 64), pool[1], Fire(128, 32, 128), Fire(256, 32, 128), pool[2],
                                      Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: T) -> T:
        return self.classifier(self.features(x)).flatten(1)


class Bottleneck(nn.Module):
    def __init__(self, c: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        if stride > 1 or c != 4 * width:
            self.downsample: nn.Module | None = nn.Sequential(nn.Conv2d(c, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        else:
            self.downsample = None

    def forward(self, x: T) -> T:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        c = 64
        for k, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
            stage = [Bottleneck(c if b == 0 else 4 * width, width, 2 if k > 1 and b == 0 else 1) for b in range(blocks)]
            self.add_module(f"layer{k}", nn.Sequential(*stage))
            c = 4 * width
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: T) -> T:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
        return self.fc(x.mean((2, 3)))


class ConvBn(nn.Module):
    def __init__(self, c: int, out: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c, out, kernel, stride, padding, bias=False), nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: T) -> T:
        return F.relu(self.bn(self.conv(x)))


class InceptionA(nn.Module):
    def __init__(self, c: int, pool: int):
        super().__init__()
        self.branch1x1 = ConvBn(c, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = ConvBn(c, 48, 1), ConvBn(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = ConvBn(c, 64, 1), ConvBn(64, 96, 3, padding=1), ConvBn(96, 96, 3, padding=1)
        self.branch_pool = ConvBn(c, pool, 1)

    def forward(self, x: T) -> T:
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                          self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionB(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.branch3x3 = ConvBn(c, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = ConvBn(c, 64, 1), ConvBn(64, 96, 3, padding=1), ConvBn(96, 96, 3, 2)

    def forward(self, x: T) -> T:
        return torch.cat([self.branch3x3(x), self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))), F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    def __init__(self, c: int, m: int):
        super().__init__()
        self.branch1x1 = ConvBn(c, 192, 1)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = ConvBn(c, m, 1), ConvBn(m, m, (1, 7), padding=(0, 3)), ConvBn(m, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3 = ConvBn(c, m, 1), ConvBn(m, m, (7, 1), padding=(3, 0)), ConvBn(m, m, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4, self.branch7x7dbl_5 = ConvBn(m, m, (7, 1), padding=(3, 0)), ConvBn(m, 192, (1, 7), padding=(0, 3))
        self.branch_pool = ConvBn(c, 192, 1)

    def forward(self, x: T) -> T:
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))))
        return torch.cat([self.branch1x1(x), self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))), double, self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionD(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = ConvBn(c, 192, 1), ConvBn(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = ConvBn(c, 192, 1), ConvBn(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = ConvBn(192, 192, (7, 1), padding=(3, 0)), ConvBn(192, 192, 3, 2)

    def forward(self, x: T) -> T:
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))), F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.branch1x1 = ConvBn(c, 320, 1)
        self.branch3x3_1, self.branch3x3_2a, self.branch3x3_2b = ConvBn(c, 384, 1), ConvBn(384, 384, (1, 3), padding=(0, 1)), ConvBn(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvBn(c, 448, 1), ConvBn(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = ConvBn(384, 384, (1, 3), padding=(0, 1)), ConvBn(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvBn(c, 192, 1)

    def forward(self, x: T) -> T:
        one, two = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat([self.branch1x1(x), self.branch3x3_2a(one), self.branch3x3_2b(one), self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two),
                          self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = ConvBn(3, 32, 3, 2), ConvBn(32, 32, 3), ConvBn(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = ConvBn(64, 80, 1), ConvBn(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a = InceptionA(192, 32), InceptionA(256, 64), InceptionA(288, 64), InceptionB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = InceptionC(768, 128), InceptionC(768, 160), InceptionC(768, 160), InceptionC(768, 192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = InceptionD(768), InceptionE(1280), InceptionE(2048)
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x: T) -> T:
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return self.fc(x.mean((2, 3)))


NETS = {"vgg16": Vgg16, "squeezenet": SqueezeNet, "resnet50": ResNet50, "inception_v3": InceptionV3}
