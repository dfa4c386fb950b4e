"""The models of the benchmark as a PyTorch user writes them: modules in NCHW, their images in the channels-last format.

Each module says by ``tie`` which of netc's weights its parameters are, and how those are laid out there, so that
weights go in and gradients come out by netc's names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Tie:
    """``parameter[rows]`` is netc's array ``path``, seen in ``shape`` (its own if None), its axes in this order."""

    path: str
    parameter: nn.Parameter
    shape: tuple[int, ...] | None
    axes: tuple[int, ...] | None
    rows: slice

    def load(self, array: np.ndarray) -> None:
        source = torch.from_numpy(np.ascontiguousarray(self._arranged(array)))
        with torch.no_grad():
            target = self.parameter[self.rows]
            target.copy_(source.reshape(target.shape))

    def _arranged(self, array: np.ndarray) -> np.ndarray:
        seen = array.reshape(self.shape or array.shape)
        return seen if self.axes is None else seen.transpose(self.axes)

    def read(self, tensor: torch.Tensor, like: np.ndarray) -> np.ndarray:
        """What belongs to this weight of a tensor in the parameter's layout, in netc's shape."""
        arranged = self._arranged(like)
        found = tensor[self.rows].detach().numpy().reshape(arranged.shape)
        return (found if self.axes is None else found.transpose(np.argsort(self.axes))).reshape(like.shape)


class Module(nn.Module):
    def tie(self, path: str, parameter: nn.Parameter, axes=None, shape=None, rows=slice(None)) -> None:
        self.__dict__.setdefault("own_ties", []).append(Tie(path, parameter, shape, axes, rows))

    def ties(self) -> list[Tie]:
        return [tie for module in self.modules() for tie in module.__dict__.get("own_ties", ())]

    def load(self, weights: dict[str, np.ndarray]) -> None:
        for tie in self.ties():
            tie.load(weights[tie.path])

    def outputs(self, **inputs) -> dict[str, torch.Tensor]:
        """The outputs under netc's names and in its layout."""
        raise NotImplementedError

    def loss(self, **inputs) -> torch.Tensor:
        raise NotImplementedError


# --- layers -------------------------------------------------------------------------------------------------------


class Dense(Module):
    def __init__(self, path: str, inputs: int, units: int):
        super().__init__()
        self.linear = nn.Linear(inputs, units)
        self.tie(f"{path}.kernel", self.linear.weight, (1, 0))
        self.tie(f"{path}.bias", self.linear.bias)

    def forward(self, x):
        return self.linear(x)


class Conv(Module):
    """Padding as Keras' "same", whose odd filler is at the end, or none."""

    def __init__(self, path: str, inputs: int, filters: int, size: int, stride: int = 1, same: bool = True,
                 places: int = 0):
        super().__init__()
        filler = max((-(-places // stride) - 1) * stride + size - places, 0) if same else 0
        before, after = filler // 2, filler - filler // 2
        self.filler = None if before == after else (before, after, before, after)
        # oneDNN writes past its memory in the weight gradient of a strided 1x1 convolution of less than eight channels
        # (uxlfoundation/oneDNN issue 6035): there every other pixel is taken first.
        self.step = stride if size == 1 and inputs < 8 else 1
        self.conv = nn.Conv2d(inputs, filters, size, stride // self.step, padding=before if before == after else 0)
        self.tie(f"{path}.kernel", self.conv.weight, (3, 2, 0, 1))
        self.tie(f"{path}.bias", self.conv.bias)

    def forward(self, x):
        if self.step > 1:
            x = x[:, :, ::self.step, ::self.step]
        return self.conv(x if self.filler is None else F.pad(x, self.filler))


class ConvTranspose(Module):
    """``crop``: how much of the result's border is cut, at the start and at the end."""

    def __init__(self, path: str, inputs: int, filters: int, size: int, stride: int = 1,
                 crop: tuple[int, int] = (0, 0)):
        super().__init__()
        even = crop[0] == crop[1]
        self.conv = nn.ConvTranspose2d(inputs, filters, size, stride, padding=crop[0] if even else 0)
        self.cut = None if even else slice(crop[0], -crop[1] or None)
        self.tie(f"{path}.kernel", self.conv.weight, (3, 2, 0, 1))
        self.tie(f"{path}.bias", self.conv.bias)

    def forward(self, x):
        y = self.conv(x)
        return y if self.cut is None else y[:, :, self.cut, self.cut]


class Embedding(Module):
    def __init__(self, path: str, rows: int, units: int):
        super().__init__()
        self.embedding = nn.Embedding(rows, units)
        self.tie(f"{path}.embeddings", self.embedding.weight)

    def forward(self, index):
        return self.embedding(index)


class LSTM(Module):
    """The last state.  nn.LSTM adds two biases; one of them stays zero."""

    def __init__(self, path: str, inputs: int, units: int):
        super().__init__()
        self.lstm = nn.LSTM(inputs, units, batch_first=True)
        self.tie(f"{path}.kernel", self.lstm.weight_ih_l0, (1, 0))
        self.tie(f"{path}.recurrent", self.lstm.weight_hh_l0, (1, 0))
        self.tie(f"{path}.bias", self.lstm.bias_ih_l0)
        nn.init.zeros_(self.lstm.bias_hh_l0.requires_grad_(False))

    def forward(self, x):
        return self.lstm(x)[1][0][0]


class Norm(Module):
    def __init__(self, path: str, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.tie(f"{path}.gamma", self.norm.weight)
        self.tie(f"{path}.beta", self.norm.bias)

    def forward(self, x):
        return self.norm(x)


class Attention(Module):
    """Query, key and value in one product for self-attention, key and value in one for cross-attention."""

    def __init__(self, path: str, width: int, heads: int, cross: bool = False):
        super().__init__()
        self.heads, self.cross = heads, cross
        names = ["query", "key", "value"]
        self.packed = nn.ModuleList(nn.Linear(width, width * len(group)) for group in self._groups(names))
        for linear, group in zip(self.packed, self._groups(names)):
            for number, name in enumerate(group):
                rows = slice(number * width, (number + 1) * width)
                self.tie(f"{path}.{name}.kernel", linear.weight, (1, 0), (width, width), rows)
                self.tie(f"{path}.{name}.bias", linear.bias, None, (width,), rows)
        self.output = nn.Linear(width, width)
        self.tie(f"{path}.output.kernel", self.output.weight, (1, 0), (width, width))
        self.tie(f"{path}.output.bias", self.output.bias)

    def _groups(self, names):
        return [names[:1], names[1:]] if self.cross else [names]

    def forward(self, x, memory=None, causal: bool = False):
        packed = [linear(source) for linear, source in zip(self.packed, (x, memory))]
        parts = [part for value in packed for part in value.split(x.shape[-1], dim=-1)]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.output(y.transpose(1, 2).flatten(2))


class FeedForward(Module):
    def __init__(self, path: str, width: int, inner: int, activation):
        super().__init__()
        self.activation = activation
        self.wide = Dense(f"{path}.dense", width, inner)
        self.narrow = Dense(f"{path}.dense_1", inner, width)

    def forward(self, x):
        return self.narrow(self.activation(self.wide(x)))


class Inception(Module):
    def __init__(self, path: str, inputs: int, units: int, places: int):
        super().__init__()
        self.a = Conv(f"{path}.branch_a", inputs, units, 1, 2, places=places)
        self.b = Conv(f"{path}.conv2d", inputs, units, 1, places=places)
        self.b_1 = Conv(f"{path}.conv2d_1", units, units, 3, 2, places=places)
        self.c = Conv(f"{path}.conv2d_2", inputs, units, 1, places=places)
        self.c_1 = Conv(f"{path}.conv2d_3", units, units, 5, 2, places=places)
        self.d = Conv(f"{path}.conv2d_4", inputs, units, 1, 2, places=places)

    def forward(self, x):
        pooled = F.max_pool2d(x, 3, 1, 1)
        return torch.cat([F.elu(self.a(x)), F.elu(self.b_1(F.elu(self.b(x)))), F.elu(self.c_1(F.elu(self.c(x)))),
                          F.elu(self.d(pooled))], 1)


class Features(Module):
    """Two Inception blocks, flattened in netc's order: (y, x, channel), which is that of channels-last memory."""

    def __init__(self, path: str = ""):
        super().__init__()
        self.first = Inception(f"{path}inception", 3, 10, 32)
        self.second = Inception(f"{path}inception_1", 40, 40, 16)
        self.dense = Dense(f"{path}dense", 10240, 100)

    def forward(self, image):
        y = self.second(self.first(image))
        return F.elu(self.dense(y.permute(0, 2, 3, 1).flatten(1)))


# --- models -------------------------------------------------------------------------------------------------------


def nhwc(image: torch.Tensor) -> torch.Tensor:
    return image.permute(0, 2, 3, 1)


class Tiny(Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.last = Dense("dense", 3, 3), Dense("dense_1", 3, 1)

    def outputs(self, x):
        return {"y": torch.sigmoid(self.last(F.relu(self.hidden(x))))}

    def loss(self, x, target):
        return F.mse_loss(self.outputs(x)["y"], target)


class MLP(Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(Dense("dense", 784, 512), nn.ReLU(), Dense("dense_1", 512, 256), nn.ReLU(),
                                    Dense("dense_2", 256, 10))

    def outputs(self, x):
        return {"logits": self.layers(x)}

    def loss(self, x, label):
        return F.cross_entropy(self.layers(x), label)


class Classifier(Module):
    def __init__(self):
        super().__init__()
        self.features = Features()
        self.hidden, self.last = Dense("dense_1", 100, 20), Dense("dense_2", 20, 1)

    def outputs(self, image):
        return {"probability": torch.sigmoid(self.last(F.elu(self.hidden(self.features(image)))))}

    def loss(self, image, label):
        return F.binary_cross_entropy(self.outputs(image)["probability"], label)


class TwoImages(Module):
    def __init__(self):
        super().__init__()
        self.features = Features("features.")
        self.hidden, self.last = Dense("dense", 200, 20), Dense("dense_1", 20, 1)

    def outputs(self, first, second):
        x = torch.cat([self.features(first), self.features(second)], 1)
        return {"probability": torch.sigmoid(self.last(F.elu(self.hidden(x))))}

    def loss(self, first, second, label):
        return F.binary_cross_entropy(self.outputs(first, second)["probability"], label)


class Autoencoder(Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            Conv("encoder.conv2d", 1, 16, 3, same=False), nn.ReLU(),
            Conv("encoder.conv2d_1", 16, 32, 3, same=False), nn.ReLU(), nn.MaxPool2d(3),
            Conv("encoder.conv2d_2", 32, 32, 3, same=False), nn.ReLU(),
            Conv("encoder.conv2d_3", 32, 16, 3, same=False), nn.ReLU())
        self.decoder = nn.Sequential(
            ConvTranspose("decoder.conv2d_transpose", 1, 16, 3), nn.ReLU(),
            ConvTranspose("decoder.conv2d_transpose_1", 16, 32, 3), nn.ReLU(), nn.Upsample(scale_factor=3),
            ConvTranspose("decoder.conv2d_transpose_2", 32, 16, 3), nn.ReLU(),
            ConvTranspose("decoder.conv2d_transpose_3", 16, 1, 3), nn.ReLU())

    def forward(self, image):
        code = self.encoder(image).amax((2, 3))
        return self.decoder(code.reshape(-1, 1, 4, 4))

    def outputs(self, image):
        return {"reconstruction": nhwc(self(image))}

    def loss(self, image):
        return F.mse_loss(self(image), image)


class Ticket(Module):
    def __init__(self):
        super().__init__()
        self.title = nn.Sequential(Embedding("embedding", 10_000, 64), LSTM("lstm", 64, 128))
        self.body = nn.Sequential(Embedding("embedding_1", 10_000, 64), LSTM("lstm_1", 64, 32))
        self.priority, self.department = Dense("priority", 172, 1), Dense("department", 172, 4)

    def outputs(self, title, body, tags):
        x = torch.cat([self.title(title), self.body(body), tags], 1)
        return {"priority": self.priority(x), "department": self.department(x)}

    def loss(self, title, body, tags, urgent, share):
        y = self.outputs(title, body, tags)
        return (F.binary_cross_entropy_with_logits(y["priority"], urgent)
                + 0.2 * F.cross_entropy(y["department"], share))


class Encoder(Module):
    def __init__(self, path: str, width: int, inner: int, heads: int):
        super().__init__()
        self.attention = Attention(f"{path}.attention", width, heads)
        self.attention_norm = Norm(f"{path}.attention_norm", width)
        self.feedforward = FeedForward(f"{path}.feedforward", width, inner, F.relu)
        self.feedforward_norm = Norm(f"{path}.feedforward_norm", width)

    def forward(self, x):
        h = self.attention_norm(x + self.attention(x))
        return self.feedforward_norm(h + self.feedforward(h))


class Decoder(Module):
    def __init__(self, path: str, width: int, inner: int, heads: int):
        super().__init__()
        self.self_attention = Attention(f"{path}.self_attention", width, heads)
        self.self_norm = Norm(f"{path}.self_norm", width)
        self.cross_attention = Attention(f"{path}.cross_attention", width, heads, cross=True)
        self.cross_norm = Norm(f"{path}.cross_norm", width)
        self.feedforward = FeedForward(f"{path}.feedforward", width, inner, F.relu)
        self.feedforward_norm = Norm(f"{path}.feedforward_norm", width)

    def forward(self, x, memory):
        h = self.self_norm(x + self.self_attention(x, causal=True))
        h = self.cross_norm(h + self.cross_attention(h, memory))
        return self.feedforward_norm(h + self.feedforward(h))


class Transformer(Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder("encoder", 256, 1024, 8), Decoder("decoder", 256, 1024, 8)
        self.logits = Dense("logits", 256, 64)

    def outputs(self, source, target):
        return {"logits": self.logits(self.decoder(target, self.encoder(source)))}

    def loss(self, source, target, label):
        return F.cross_entropy(self.outputs(source, target)["logits"].flatten(0, 1), label.flatten())


class VAE(Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(Conv("encoder.conv2d", 1, 32, 3, 2, places=28), nn.ReLU(),
                                     Conv("encoder.conv2d_1", 32, 64, 3, 2, places=14), nn.ReLU())
        self.hidden = Dense("encoder.dense", 3136, 16)
        self.mean, self.log_var = Dense("encoder.z_mean", 16, 2), Dense("encoder.z_log_var", 16, 2)
        self.widen = Dense("reconstruction.dense", 2, 3136)
        self.decoder = nn.Sequential(
            ConvTranspose("reconstruction.conv2d_transpose", 64, 64, 3, 2, (0, 1)), nn.ReLU(),
            ConvTranspose("reconstruction.conv2d_transpose_1", 64, 32, 3, 2, (0, 1)), nn.ReLU(),
            ConvTranspose("reconstruction.conv2d_transpose_2", 32, 1, 3, 1, (1, 1)), nn.Sigmoid())

    def forward(self, image, noise):
        h = F.relu(self.hidden(nhwc(self.encoder(image)).flatten(1)))
        mean, log_var = self.mean(h), self.log_var(h)
        z = F.relu(self.widen(mean + torch.exp(0.5 * log_var) * noise))
        return self.decoder(z.unflatten(1, (7, 7, 64)).permute(0, 3, 1, 2)), mean, log_var

    def outputs(self, image, noise):
        reconstruction, mean, log_var = self(image, noise)
        return {"reconstruction": nhwc(reconstruction), "z_mean": mean, "z_log_var": log_var}

    def loss(self, image, noise):
        reconstruction, mean, log_var = self(image, noise)
        return (F.binary_cross_entropy(reconstruction, image, reduction="sum") / len(image)
                - 0.5 * (1 + log_var - mean ** 2 - log_var.exp()).sum(1).mean())


class Block(Module):
    def __init__(self, path: str, width: int, heads: int):
        super().__init__()
        self.attention_norm = Norm(f"{path}.attention_norm", width)
        self.attention = Attention(f"{path}.attention", width, heads)
        self.feedforward_norm = Norm(f"{path}.feedforward_norm", width)
        self.feedforward = FeedForward(f"{path}.feedforward", width, 4 * width, F.gelu)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x), causal=True)
        return x + self.feedforward(self.feedforward_norm(x))


class GPT(Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = Embedding("words", 256, 128), Embedding("places", 64, 128)
        self.blocks = nn.Sequential(*(Block(path, 128, 4) for path in ("x", "x_1", "x_2", "x_3")))
        self.norm = Norm("layer_norm", 128)

    def outputs(self, tokens):
        x = self.words(tokens) + self.places.embedding.weight[:tokens.shape[1]]
        return {"logits": F.linear(self.norm(self.blocks(x)), self.words.embedding.weight)}

    def loss(self, tokens, following):
        return F.cross_entropy(self.outputs(tokens)["logits"].flatten(0, 1), following.flatten())


MODELS = {"tiny": Tiny, "mlp": MLP, "inception": Classifier, "two_images": TwoImages, "autoencoder": Autoencoder,
          "ticket": Ticket, "transformer": Transformer, "vae": VAE, "gpt": GPT}


def tensor(array: np.ndarray) -> torch.Tensor:
    """An input: an image [N, H, W, C] as NCHW over the same memory, that is in the channels-last format."""
    found = torch.from_numpy(array if array.dtype != np.int32 else array.astype(np.int64))
    return found.permute(0, 3, 1, 2) if found.ndim == 4 else found
