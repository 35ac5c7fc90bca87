"""Architectures: residual, dense, inception, depthwise, tokens and attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from strangers.base import Stranger, lif
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


class Classifier(nn.Module):
    """A stem, some body, global pooling, a linear layer; on (1, 8, 8)."""

    def __init__(self, body: nn.Module, channels: int = 6, out: int | None = None) -> None:
        super().__init__()
        self.stem, self.bn, self.lif = conv(1, channels), nn.BatchNorm2d(channels), lif()
        self.body = body
        self.fc = nn.Linear(4 * (out or channels), 4)
        self.out = lif()

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(self.lif(self.bn(self.stem(x))))
        return self.out(self.fc(F.adaptive_avg_pool2d(h, 2).flatten(1)))


class SewBlock(nn.Module):
    """SEW-ResNet's block: the spikes of two branches are joined by ADD, AND or IAND."""

    def __init__(self, join: str, channels: int = 6) -> None:
        super().__init__()
        self.join = join
        self.conv1, self.bn1, self.lif1 = conv(channels, 5), nn.BatchNorm2d(5), lif()
        self.conv2, self.bn2, self.lif2 = conv(5, channels), nn.BatchNorm2d(channels), lif()

    def forward(self, x: Tensor) -> Tensor:
        h = self.lif2(self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x))))))
        if self.join == "ADD":
            return h + x
        if self.join == "ADD in place":
            h += x
            return h
        if self.join == "AND":
            return h * x
        return x * (1.0 - h)


class MsBlock(nn.Module):
    """MS-ResNet's block: membranes are added, neurons come first."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.lif1, self.conv1, self.bn1 = lif(), conv(channels, 5), nn.BatchNorm2d(5)
        self.lif2, self.conv2, self.bn2 = lif(), conv(5, channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.lif2(self.bn1(self.conv1(self.lif1(x)))))) + x


class MsNet(nn.Module):
    """MS-ResNet: the stem's currents run through, a neuron before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = conv(1, 6), nn.BatchNorm2d(6)
        self.blocks = nn.ModuleList([MsBlock(), MsBlock()])
        self.lif, self.fc = lif(), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(self.stem(x))
        for block in self.blocks:
            h = block(h)
        return self.fc(F.adaptive_avg_pool2d(self.lif(h), 2).flatten(1))


class BasicBlock(nn.Module):
    """torchvision's block with a strided shortcut; one nn.ReLU-like neuron behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(6, 8, stride=2, bias=False), nn.BatchNorm2d(8)
        self.lif1, self.lif2 = lif(), lif()
        self.conv2, self.bn2 = conv(8, 8, bias=False), nn.BatchNorm2d(8)
        self.downsample = nn.Sequential(conv(6, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.lif1(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return self.lif2(out)


class Dense(nn.Module):
    """DenseNet: every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(6, 4), conv(10, 4), conv(14, 4)])
        self.lifs = nn.ModuleList([lif(), lif(), lif()])

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer, neuron in zip(self.convs, self.lifs, strict=True):
            seen.append(neuron(layer(torch.cat(seen, 1))))
        return torch.cat(seen, 1)


class Inception(nn.Module):
    """Branches of different kernels, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.five = conv(6, 3, 1), conv(6, 4, 3), conv(6, 2, 5)
        self.pooled, self.neurons = conv(6, 3, 1), lif()

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(F.max_pool2d(x, 3, stride=1, padding=1))
        return self.neurons(torch.cat([self.one(x), self.three(x), self.five(x), pooled], dim=1))


def separable() -> nn.Module:
    """MobileNet: depthwise, then 1x1."""
    return nn.Sequential(
        conv(6, 6, groups=6, bias=False),
        nn.BatchNorm2d(6),
        lif(),
        conv(6, 7, 1, bias=False),
        nn.BatchNorm2d(7),
        lif(),
    )


def in_groups() -> nn.Module:
    return nn.Sequential(conv(6, 6, groups=2), lif(), conv(6, 5), lif())


class Ghost(nn.Module):
    """GhostNet: cheap depthwise features beside the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lif1 = conv(6, 5), lif()
        self.cheap, self.lif2 = conv(5, 5, groups=5), lif()

    def forward(self, x: Tensor) -> Tensor:
        h = self.lif1(self.first(x))
        return torch.cat([h, self.lif2(self.cheap(h))], 1)


class Reused(nn.Module):
    """One pooling and one activation module, used behind every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act, self.pool = (
            conv(6, 5),
            conv(5, 6),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.lif1, self.lif2 = lif(), lif()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.lif1(self.act(self.conv1(x))))
        return self.pool(self.lif2(self.act(self.conv2(x))))


class UNet(nn.Module):
    """Down, up by interpolation, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.lif1 = conv(6, 7), lif()
        self.up, self.lif2 = conv(13, 6), lif()

    def forward(self, x: Tensor) -> Tensor:
        low = self.lif1(self.down(F.avg_pool2d(x, 2)))
        back = F.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.lif2(self.up(torch.cat([back, x], dim=1)))


class Attention(nn.Module):
    """Spikformer's self-attention: spikes, no softmax, a neuron behind the product."""

    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.lq, self.lk, self.lv, self.la, self.lo = (lif() for _ in range(5))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape

        def split(z: Tensor) -> Tensor:
            return z.reshape(B, N, self.heads, D // self.heads).permute(0, 2, 1, 3)

        q, k, v = (
            split(self.lq(self.q(x))),
            split(self.lk(self.k(x))),
            split(self.lv(self.v(x))),
        )
        y = (q @ k.transpose(-2, -1)) * 0.25
        y = (y @ v).transpose(1, 2).reshape(B, N, D)
        return self.lo(self.proj(self.la(y)))


class Mlp(nn.Module):
    """A transformer's two linear layers on tokens; BatchNorm over transposed tokens."""

    def __init__(self, dim: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.fc1, self.bn, self.lif1 = nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), lif()
        self.fc2, self.lif2 = nn.Linear(hidden, dim), lif()

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(self.fc1(x).transpose(1, 2)).transpose(1, 2)
        return self.lif2(self.fc2(self.lif1(h)))


class Former(nn.Module):
    """Patches, a learned position, attention and MLP with residuals, mean over tokens."""

    def __init__(self, attention: nn.Module | None, norm: bool) -> None:
        super().__init__()
        self.patches, self.lif = nn.Conv2d(1, 8, 2, 2), lif()
        self.position = nn.Parameter(0.1 * torch.randn(1, 16, 8))
        self.attention = attention
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.mlp, self.head, self.out = Mlp(), nn.Linear(8, 4), lif()

    def forward(self, x: Tensor) -> Tensor:
        t = self.lif(self.patches(x).flatten(2).transpose(1, 2) + self.position)
        if self.attention is not None:
            t = t + self.attention(t)
        t = t + self.mlp(self.norm(t))
        return self.out(self.head(t.mean(1)))


class ClassToken(nn.Module):
    """ViT: a learned token is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.lif = nn.Conv2d(1, 8, 2, 2), lif()
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(0.1 * torch.randn(1, 17, 8))
        self.mlp, self.head = Mlp(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.cls.expand(t.shape[0], -1, -1), t], dim=1) + self.position
        t = self.lif(t)
        return self.head((t + self.mlp(t))[:, 0])


class SharedQuery(nn.Module):
    """Multi-query attention on maps: every entry of the query meets every head."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.lk = conv(6, 6, 1), lif()
        self.after, self.la = conv(6, 5), lif()
        self.back = conv(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        k = self.lk(self.k(x)).flatten(2).unflatten(1, (2, 3))
        q = x.flatten(2).mean(1, keepdim=True).unsqueeze(1)
        weights = (q @ k.transpose(-1, -2)).flatten(1)
        return self.back(self.la(self.after(x * weights[:, :, None, None])))


class QkAttention(nn.Module):
    """QKFormer's token attention on maps: a mask per token from the sum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.lq, self.lk, self.la = (
            conv(6, 6, 1),
            conv(6, 6, 1),
            lif(),
            lif(),
            lif(),
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = self.la(self.lq(self.q(x)).sum(1, keepdim=True))
        return mask * self.lk(self.k(x))


class Multihead(nn.Module):
    """torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Mixer(nn.Module):
    """MLP-Mixer: a linear layer over tokens, then one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.lif = nn.Conv2d(1, 8, 2, 2), lif()
        self.tokens, self.lif1 = nn.Linear(16, 16), lif()
        self.mlp, self.head = Mlp(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        t = self.lif(self.patches(x).flatten(2))  # (batch, channels, tokens)
        t = t + self.lif1(self.tokens(t))
        t = t.transpose(1, 2)
        return self.head((t + self.mlp(t)).mean(1))


def nested() -> nn.Module:
    """Modules in modules in modules."""
    inner = nn.Sequential(nn.Sequential(conv(6, 5), nn.BatchNorm2d(5)), lif())
    return nn.Sequential(inner, nn.Sequential(nn.Sequential(conv(5, 6)), lif()))


def autoencoder_maps() -> nn.Module:
    """A linear layer whose outputs become maps again."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 48),
        lif(),
        nn.Unflatten(1, (3, 4, 4)),
        nn.Conv2d(3, 5, 3),
        lif(),
        nn.Flatten(),
        nn.Linear(20, 4),
        lif(),
    )


def fully_convolutional() -> nn.Module:
    """The classifier is a convolution, pooled."""
    return nn.Sequential(
        conv(1, 6), lif(), conv(6, 5), lif(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )


BLOCKS = [
    *(
        Stranger(f"SEW {join}", f"spike-element-wise residual, {words}",
                 lambda join=join: Classifier(SewBlock(join)),
                 groups={"stem": 6, "body.conv1": 5})
        for join, words in (("ADD", "h + x"), ("ADD in place", "h += x"), ("AND", "h * x"),
                            ("IAND", "x * (1 - h)"))
    ),
    Stranger("MS-ResNet", "currents are added, nn.ModuleList of blocks", MsNet,
             groups={"stem": 6, "blocks.0.conv1": 5, "blocks.1.conv1": 5}),
    Stranger("ResNet basic block", "out += downsample(x), strided",
             lambda: Classifier(BasicBlock(), out=8),
             groups={"stem": 6, "body.conv1": 8, "body.conv2": 8}),
    Stranger("DenseNet", "torch.cat of all layers before, nn.ModuleList",
             lambda: Classifier(Dense(), out=18),
             groups={"stem": 6, "body.convs.0": 4, "body.convs.1": 4, "body.convs.2": 4}),
    Stranger("Inception", "branches concatenated before one neuron layer",
             lambda: Classifier(Inception(), out=12),
             groups={"stem": 6, "body.one": 3, "body.three": 4, "body.five": 2, "body.pooled": 3}),
    Stranger("MobileNet", "depthwise, then 1x1 convolution",
             lambda: Classifier(separable(), out=7), groups={"stem": 6, "body.3": 7}),
    Stranger("GhostNet", "depthwise features beside their source",
             lambda: Classifier(Ghost(), out=10), groups={"stem": 6, "body.first": 5}),
    Stranger("grouped convolution", "nn.Conv2d(groups=2)",
             lambda: Classifier(in_groups(), out=5),
             groups={"stem": 6, "body.0": 6, "body.2": 5}),
    Stranger("modules reused", "one nn.ReLU and one nn.MaxPool2d behind every layer",
             lambda: Classifier(Reused()), groups={"stem": 6, "body.conv1": 5, "body.conv2": 6}),
    Stranger("U-Net", "F.interpolate and a skip connection", lambda: Classifier(UNet()),
             groups={"stem": 6, "body.down": 7, "body.up": 6}),
    Stranger("nested nn.Sequential", "modules in modules in modules",
             lambda: Classifier(nested()), groups={"stem": 6, "body.0.0.0": 5, "body.1.0.0": 6}),
    Stranger("nn.Unflatten", "a linear layer's outputs become maps", autoencoder_maps,
             groups={"4": 5}, fixed={"1": "its outputs become channels and places"}),
    Stranger("token attention", "QKFormer: mask * spikes, the mask a sum over channels",
             lambda: Classifier(QkAttention()),
             groups={"stem": 6},
             fixed={"body.q": "is summed over channels", "body.k": "is multiplied by one mask"}),
    Stranger("tokens and MLP", "Linear on (batch, tokens, features), BatchNorm1d transposed",
             lambda: Former(None, norm=False), groups={"patches": 8, "mlp.fc1": 16}),
    Stranger("class token", "torch.cat([cls.expand(B, -1, -1), t], 1), t[:, 0]", ClassToken,
             groups={"patches": 8, "mlp.fc1": 16}),
    Stranger("products of maps", "(q @ k.transpose(1, 2)) with q shared by all heads",
             lambda: Classifier(SharedQuery()), groups={"body.after": 5, "body.back": 6},
             fixed={"stem": "is multiplied by products of channels",
                    "body.k": "its channels become heads"}),
    Stranger("spiking transformer", "attention of spikes, LayerNorm, MLP, residuals",
             lambda: Former(Attention(), norm=True), groups={"mlp.fc1": 16},
             fixed={"patches": "is normalised with all its channels",
                    **dict.fromkeys(("attention.q", "attention.k", "attention.v"),
                                    "its channels become heads"),
                    "attention.proj": "is added to the patches",
                    "mlp.fc2": "is added to the patches"}),
    Stranger("MLP-Mixer", "a linear layer over tokens, then over channels", Mixer,
             groups={"mlp.fc1": 16},
             fixed={"patches": "its channels change places with the tokens",
                    "tokens": "mixes tokens, which are no channels",
                    "mlp.fc2": "is added to the patches"}),
    Stranger("nn.MultiheadAttention", "torch's own attention module",
             lambda: Former(Multihead(), norm=False),
             refused="in module 'attention.attention' (MultiheadAttention)"),
    Stranger("fully convolutional", "convolutions, global pooling", fully_convolutional,
             groups={"0": 6, "2": 5}),
]  # fmt: skip
