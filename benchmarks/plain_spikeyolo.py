"""SpikeYOLO written down block by block, as its description reads: the baseline of `step_parts.py`.

Nothing here is clever: tensors are [T, B, C, H, W] in torch's own order, every neuron is a loop over time of ordinary
operations that autograd differentiates, borders are padded by hand, every convolution is torch's. The submodules
carry the names of ours, so that both networks load the same weights; in training they then give the same predictions
and gradients, which tests/detector/test_plain_spikeyolo.py asks for. Source: facts/models.md, part B (B.1, B.4, B.5).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketrack.detector.spikeyolo import REG_MAX, SCALES, ModelSettings, Predictions, locations
from spiketrack.spiking import ILIFSettings


class Rounding(torch.autograd.Function):
    """round(clip(m, 0, D)); the gradient passes where 0 <= m <= D."""

    @staticmethod
    def forward(ctx, membrane: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(membrane)
        ctx.levels = levels
        return torch.round(torch.clamp(membrane, 0, levels))

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (membrane,) = ctx.saved_tensors
        inside = (membrane >= 0) & (membrane <= ctx.levels)
        return grads[0] * inside, None


class Neuron(nn.Module):
    """Multi-step I-LIF: m[t] = decay * (m[t-1] - s[t-1]) + gain * x[t]."""

    def __init__(self, settings: ILIFSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        spikes: list[Tensor] = []
        membrane = torch.zeros_like(x[0])
        for t in range(x.shape[0]):
            left = membrane - spikes[-1].detach() if spikes else membrane
            membrane = self.settings.decay * left + self.settings.gain * x[t]
            spikes.append(Rounding.apply(membrane, self.settings.levels))
        return torch.stack(spikes)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


def on_images(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of images on every time step: [T, B, C, H, W] to [T, B, C', H', W']."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class NeuronConv(nn.Module):
    """Neuron, convolution without bias, norm."""

    def __init__(self, cin: int, cout: int, kernel: int, settings: ILIFSettings, stride: int = 1, groups: int = 1):
        super().__init__()
        self.neuron = Neuron(settings)
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = norm(cout)

    def forward(self, x: Tensor) -> Tensor:
        return on_images(self.norm, on_images(self.conv, self.neuron(x)))


class NeuronConvBias(nn.Module):
    """Neuron, 1x1 convolution with bias."""

    def __init__(self, cin: int, cout: int, settings: ILIFSettings) -> None:
        super().__init__()
        self.neuron = Neuron(settings)
        self.conv = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        return on_images(self.conv, self.neuron(x))


class Down(nn.Module):
    """[Neuron unless first], strided convolution with bias, norm."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, padding: int, settings: ILIFSettings | None):
        super().__init__()
        self.neuron = Neuron(settings) if settings else nn.Identity()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding)
        self.norm = norm(cout)

    def forward(self, x: Tensor) -> Tensor:
        return on_images(self.norm, on_images(self.conv, self.neuron(x)))


class NormAndPad(nn.Module):
    """Norm, then a border of one pixel that holds what the norm gives a zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        padded = F.pad(n(x), (1, 1, 1, 1))
        border = n.bias.detach() - n.running_mean * n.weight.detach() / torch.sqrt(n.running_var + n.eps)
        border = border.view(1, -1, 1, 1)
        padded[:, :, 0:1, :] = border
        padded[:, :, -1:, :] = border
        padded[:, :, :, 0:1] = border
        padded[:, :, :, -1:] = border
        return padded


class RepConv(nn.Module):
    """1x1, norm and pad, depthwise 3x3, 1x1, norm."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(cin, cin, 1, bias=False)
        self.centred = NormAndPad(cin)
        self.depthwise = nn.Conv2d(cin, cin, 3, groups=cin, bias=False)
        self.second = nn.Conv2d(cin, cout, 1, bias=False)
        self.norm = norm(cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.depthwise(self.centred(self.first(x)))))


class SepRepConv(nn.Module):
    """Norm and pad, 1x1, depthwise 3x3."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.centred = NormAndPad(cin)
        self.pointwise = nn.Conv2d(cin, cout, 1, bias=False)
        self.depthwise = nn.Conv2d(cout, cout, 3, groups=cout, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.depthwise(self.pointwise(self.centred(x)))


class Separable(nn.Module):
    """Neuron, 1x1 to 2C, norm; neuron, depthwise 7x7, norm; neuron, SepRepConv to C, norm."""

    def __init__(self, channels: int, settings: ILIFSettings) -> None:
        super().__init__()
        inner = 2 * channels
        self.expand = NeuronConv(channels, inner, 1, settings)
        self.depthwise = NeuronConv(inner, inner, 7, settings, groups=inner)
        self.neuron = Neuron(settings)
        self.contract = SepRepConv(inner, channels)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.neuron(self.depthwise(self.expand(x)))
        return on_images(self.norm, on_images(self.contract, x))


class AllConvBlock(nn.Module):
    """x + separable(x), then x + 3x3 to rC and 3x3 back."""

    def __init__(self, channels: int, ratio: int, settings: ILIFSettings) -> None:
        super().__init__()
        self.token = Separable(channels, settings)
        self.expand = NeuronConv(channels, ratio * channels, 3, settings)
        self.contract = NeuronConv(ratio * channels, channels, 3, settings)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token(x)
        return x + self.contract(self.expand(x))


class ConvBlock(nn.Module):
    """x + separable(x), then x + norm(RepConv(neuron(norm(RepConv(neuron(x))))))."""

    def __init__(self, channels: int, ratio: int, settings: ILIFSettings) -> None:
        super().__init__()
        inner = ratio * channels
        self.token = Separable(channels, settings)
        self.neuron_in, self.neuron_out = Neuron(settings), Neuron(settings)
        self.expand = nn.Sequential(RepConv(channels, inner), norm(inner))
        self.contract = nn.Sequential(RepConv(inner, channels), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token(x)
        y = on_images(self.expand, self.neuron_in(x))
        return x + on_images(self.contract, self.neuron_out(y))


class Pyramid(nn.Module):
    """1x1 to C/2, three 5x5 max-pools one after the other, all four side by side, 1x1 to C."""

    def __init__(self, channels: int, settings: ILIFSettings) -> None:
        super().__init__()
        self.reduce = NeuronConv(channels, channels // 2, 1, settings)
        self.expand = NeuronConv(channels // 2 * 4, channels, 1, settings)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.reduce(x)
        second = on_images(self.pool, first)
        third = on_images(self.pool, second)
        return self.expand(torch.cat([first, second, third, on_images(self.pool, third)], dim=2))


class Branch(nn.Module):
    """Two 3x3 and a 1x1 with bias."""

    def __init__(self, cin: int, inner: int, cout: int, settings: ILIFSettings) -> None:
        super().__init__()
        self.first = NeuronConv(cin, inner, 3, settings)
        self.second = NeuronConv(inner, inner, 3, settings)
        self.last = NeuronConvBias(inner, cout, settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x)))


class Detect(nn.Module):
    """Per level boxes and classes side by side, flattened and put into one list of locations."""

    def __init__(self, channels: tuple[int, int, int], classes: int, least_box: int, settings: ILIFSettings) -> None:
        super().__init__()
        box, inner = max(16, channels[0] // 4, least_box), max(channels[0], min(classes, 100))
        self.box = nn.ModuleList(Branch(c, box, 4 * REG_MAX, settings) for c in channels)
        self.classes = nn.ModuleList(Branch(c, inner, classes, settings) for c in channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = [
            torch.cat([box(x), classes(x)], dim=2) for x, box, classes in zip(maps, self.box, self.classes, strict=True)
        ]
        return torch.cat([level.flatten(3) for level in levels], dim=3).transpose(2, 3)


class PlainSpikeYOLO(nn.Module):
    """x: [T, B, C, H, W] to predictions of every time step, each from a fresh state."""

    def __init__(self, settings: ModelSettings, in_channels: int, num_classes: int) -> None:
        super().__init__()
        depth, width, deep_ratio, least_box, most = SCALES[settings.scale]
        neuron = settings.neuron
        c1, c2, c3, c4 = (int(min(c, most) * width) for c in (128, 256, 512, 1024))
        h3, h4 = int(256 * width), int(512 * width)

        def times(n: int, block: type[nn.Module], channels: int, ratio: int) -> nn.Sequential:
            return nn.Sequential(*(block(channels, ratio, neuron) for _ in range(max(round(n * depth), 1))))

        self.stem = Down(in_channels, c1, 7, 4, 2, None)
        self.stage1 = times(3, AllConvBlock, c1, 4)
        self.down2 = Down(c1, c2, 3, 2, 1, neuron)
        self.stage2 = times(6, AllConvBlock, c2, 4)
        self.down3 = Down(c2, c3, 3, 2, 1, neuron)
        self.stage3 = times(9, ConvBlock, c3, 3)
        self.down4 = Down(c3, c4, 3, 2, 1, neuron)
        self.stage4 = times(3, ConvBlock, c4, 2)
        self.sppf = Pyramid(c4, neuron)
        self.reduce5 = NeuronConv(c4, h4, 1, neuron)
        self.merge4 = ConvBlock(h4, 3, neuron)
        self.reduce4 = NeuronConv(h4 + c3, h3, 1, neuron)
        self.merge3 = AllConvBlock(h3, 4, neuron)
        self.reduce3 = NeuronConv(h3 + c2, h3, 1, neuron)
        self.out3 = AllConvBlock(h3, 4, neuron)
        self.down_to4 = NeuronConv(h3, h3, 3, neuron, stride=2)
        self.out4 = ConvBlock(2 * h3, 3, neuron)
        self.down_to5 = NeuronConv(2 * h3, c4 - h4, 3, neuron, stride=2)
        self.out5 = ConvBlock(c4, deep_ratio, neuron)
        self.head = Detect((h3, 2 * h3, c4), num_classes, least_box, neuron)

    def forward(self, x: Tensor) -> Predictions:
        p3 = self.stage2(self.down2(self.stage1(self.stem(x))))
        p4 = self.stage3(self.down3(p3))
        top5 = self.reduce5(self.sppf(self.stage4(self.down4(p4))))
        top4 = self.reduce4(torch.cat([self.merge4(enlarged(top5, p4)), p4], dim=2))
        top3 = self.reduce3(torch.cat([self.merge3(enlarged(top4, p3)), p3], dim=2))
        out3 = self.out3(top3)
        out4 = self.out4(torch.cat([self.down_to4(out3), top4], dim=2))
        out5 = self.out5(torch.cat([self.down_to5(out4), top5], dim=2))
        maps = [out3, out4, out5]
        return Predictions(self.head(maps), *locations([m.shape[3:] for m in maps], x.device))


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Nearest neighbour to the rows and columns of another map."""
    return F.interpolate(x.flatten(0, 1), size=like.shape[3:], mode="nearest").unflatten(0, x.shape[:2])
