"""The models of the benchmark in plain JAX: pure functions of a dictionary of weights, by netc's names and layouts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")


def dense(w, path: str, x):
    return x @ w[f"{path}.kernel"] + w[f"{path}.bias"]


def conv(w, path: str, x, stride: int = 1, padding: str = "SAME"):
    y = lax.conv_general_dilated(x, w[f"{path}.kernel"], (stride, stride), padding, dimension_numbers=LAYOUT)
    return y + w[f"{path}.bias"]


def conv_transpose(w, path: str, x, stride: int = 1, padding: str = "VALID"):
    y = lax.conv_transpose(x, w[f"{path}.kernel"], (stride, stride), padding, dimension_numbers=LAYOUT,
                           transpose_kernel=True)
    return y + w[f"{path}.bias"]


def max_pool(x, size: int, stride: int, padding: str):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)


def lstm(w, path: str, x):
    """The last state; the inputs' product for all steps at once."""
    kernel, recurrent, bias = w[f"{path}.kernel"], w[f"{path}.recurrent"], w[f"{path}.bias"]
    steps = jnp.swapaxes(x @ kernel + bias, 0, 1)
    start = jnp.zeros((x.shape[0], recurrent.shape[0]), x.dtype)

    def step(carry, z):
        h, c = carry
        i, f, g, o = jnp.split(z + h @ recurrent, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None
    (h, _), _ = lax.scan(step, (start, start), steps)
    return h


def norm(w, path: str, x):
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    variance = (centred ** 2).mean(-1, keepdims=True)
    return centred * lax.rsqrt(variance + 1e-5) * w[f"{path}.gamma"] + w[f"{path}.beta"]


def attention(w, path: str, x, memory, causal: bool = False):
    q, k, v = (jnp.einsum("nti,ihd->nthd", source, w[f"{path}.{name}.kernel"]) + w[f"{path}.{name}.bias"]
               for name, source in (("query", x), ("key", memory), ("value", memory)))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    return jnp.einsum("nthd,hdo->nto", y, w[f"{path}.output.kernel"]) + w[f"{path}.output.bias"]


def feedforward(w, path: str, x, activation):
    return dense(w, f"{path}.dense_1", activation(dense(w, f"{path}.dense", x)))


def inception(w, path: str, x):
    elu = jax.nn.elu
    pooled = max_pool(x, 3, 1, "SAME")
    return jnp.concatenate([
        elu(conv(w, f"{path}.branch_a", x, 2)),
        elu(conv(w, f"{path}.conv2d_1", elu(conv(w, f"{path}.conv2d", x)), 2)),
        elu(conv(w, f"{path}.conv2d_3", elu(conv(w, f"{path}.conv2d_2", x)), 2)),
        elu(conv(w, f"{path}.conv2d_4", pooled, 2))], -1)


def features(w, image, path: str = ""):
    y = inception(w, f"{path}inception_1", inception(w, f"{path}inception", image))
    return jax.nn.elu(dense(w, f"{path}dense", y.reshape(len(image), -1)))


def binary_crossentropy(p, target):
    return -(target * jnp.log(p) + (1 - target) * jnp.log1p(-p))


def sparse_crossentropy(logits, label):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1)
    return -chosen.mean()


# --- models: outputs(w, inputs) and loss(w, inputs) -------------------------------------------------------------------


def tiny(w, x):
    return {"y": jax.nn.sigmoid(dense(w, "dense_1", jax.nn.relu(dense(w, "dense", x))))}


def tiny_loss(w, x, target):
    return ((tiny(w, x)["y"] - target) ** 2).mean()


def mlp(w, x):
    h = jax.nn.relu(dense(w, "dense", x))
    return {"logits": dense(w, "dense_2", jax.nn.relu(dense(w, "dense_1", h)))}


def mlp_loss(w, x, label):
    return sparse_crossentropy(mlp(w, x)["logits"], label)


def classifier(w, image):
    h = jax.nn.elu(dense(w, "dense_1", features(w, image)))
    return {"probability": jax.nn.sigmoid(dense(w, "dense_2", h))}


def classifier_loss(w, image, label):
    return binary_crossentropy(classifier(w, image)["probability"], label).mean()


def two_images(w, first, second):
    x = jnp.concatenate([features(w, first, "features."), features(w, second, "features.")], -1)
    return {"probability": jax.nn.sigmoid(dense(w, "dense_1", jax.nn.elu(dense(w, "dense", x))))}


def two_images_loss(w, first, second, label):
    return binary_crossentropy(two_images(w, first, second)["probability"], label).mean()


def autoencoder(w, image):
    relu = jax.nn.relu
    h = relu(conv(w, "encoder.conv2d", image, 1, "VALID"))
    h = max_pool(relu(conv(w, "encoder.conv2d_1", h, 1, "VALID")), 3, 3, "VALID")
    h = relu(conv(w, "encoder.conv2d_2", h, 1, "VALID"))
    code = relu(conv(w, "encoder.conv2d_3", h, 1, "VALID")).max((1, 2))
    h = relu(conv_transpose(w, "decoder.conv2d_transpose", code.reshape(-1, 4, 4, 1)))
    h = relu(conv_transpose(w, "decoder.conv2d_transpose_1", h))
    h = jnp.repeat(jnp.repeat(h, 3, 1), 3, 2)
    h = relu(conv_transpose(w, "decoder.conv2d_transpose_2", h))
    return {"reconstruction": relu(conv_transpose(w, "decoder.conv2d_transpose_3", h))}


def autoencoder_loss(w, image):
    return ((autoencoder(w, image)["reconstruction"] - image) ** 2).mean()


def ticket(w, title, body, tags):
    t = lstm(w, "lstm", w["embedding.embeddings"][title])
    b = lstm(w, "lstm_1", w["embedding_1.embeddings"][body])
    x = jnp.concatenate([t, b, tags], -1)
    return {"priority": dense(w, "priority", x), "department": dense(w, "department", x)}


def ticket_loss(w, title, body, tags, urgent, share):
    y = ticket(w, title, body, tags)
    x = y["priority"]
    priority = (jax.nn.softplus(x) - x * urgent).mean()
    return priority - 0.2 * (share * jax.nn.log_softmax(y["department"])).sum(-1).mean()


def transformer(w, source, target):
    h = norm(w, "encoder.attention_norm", source + attention(w, "encoder.attention", source, source))
    memory = norm(w, "encoder.feedforward_norm", h + feedforward(w, "encoder.feedforward", h, jax.nn.relu))
    h = norm(w, "decoder.self_norm", target + attention(w, "decoder.self_attention", target, target, True))
    h = norm(w, "decoder.cross_norm", h + attention(w, "decoder.cross_attention", h, memory))
    h = norm(w, "decoder.feedforward_norm", h + feedforward(w, "decoder.feedforward", h, jax.nn.relu))
    return {"logits": dense(w, "logits", h)}


def transformer_loss(w, source, target, label):
    return sparse_crossentropy(transformer(w, source, target)["logits"], label)


def vae(w, image, noise):
    relu = jax.nn.relu
    h = relu(conv(w, "encoder.conv2d_1", relu(conv(w, "encoder.conv2d", image, 2)), 2))
    h = relu(dense(w, "encoder.dense", h.reshape(len(image), -1)))
    mean, log_var = dense(w, "encoder.z_mean", h), dense(w, "encoder.z_log_var", h)
    h = relu(dense(w, "reconstruction.dense", mean + jnp.exp(0.5 * log_var) * noise)).reshape(-1, 7, 7, 64)
    h = relu(conv_transpose(w, "reconstruction.conv2d_transpose", h, 2, "SAME"))
    h = relu(conv_transpose(w, "reconstruction.conv2d_transpose_1", h, 2, "SAME"))
    return {"reconstruction": jax.nn.sigmoid(conv_transpose(w, "reconstruction.conv2d_transpose_2", h, 1, "SAME")),
            "z_mean": mean, "z_log_var": log_var}


def vae_loss(w, image, noise):
    y = vae(w, image, noise)
    kl = -0.5 * (1 + y["z_log_var"] - y["z_mean"] ** 2 - jnp.exp(y["z_log_var"]))
    return binary_crossentropy(y["reconstruction"], image).sum((1, 2, 3)).mean() + kl.sum(1).mean()


def gpt(w, tokens):
    words = w["words.embeddings"]
    x = words[tokens] + w["places.embeddings"][:tokens.shape[1]]
    for path in ("x", "x_1", "x_2", "x_3"):
        h = norm(w, f"{path}.attention_norm", x)
        x = x + attention(w, f"{path}.attention", h, h, True)
        h = norm(w, f"{path}.feedforward_norm", x)
        x = x + feedforward(w, f"{path}.feedforward", h, lambda y: jax.nn.gelu(y, approximate=False))
    return {"logits": norm(w, "layer_norm", x) @ words.T}


def gpt_loss(w, tokens, following):
    return sparse_crossentropy(gpt(w, tokens)["logits"], following)


MODELS = {"tiny": (tiny, tiny_loss), "mlp": (mlp, mlp_loss), "inception": (classifier, classifier_loss),
          "two_images": (two_images, two_images_loss), "autoencoder": (autoencoder, autoencoder_loss),
          "ticket": (ticket, ticket_loss), "transformer": (transformer, transformer_loss), "vae": (vae, vae_loss),
          "gpt": (gpt, gpt_loss)}
