"""A language model: it predicts which token comes next."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnnjax.cells.cell import Cell, State
from rnnjax.cells.sizes import check_size
from rnnjax.models.sampling import sample
from rnnjax.nn.rnn import RNN


class LanguageModel(nn.Module):
    """Embeds tokens, reads them with a recurrent layer, and predicts the token after each (Mikolov et al., 2010).

    Attributes:
      cell: the recurrent cell, a `Stack` for several layers.
      vocabulary_size: number V of tokens.
      embedding_size: features of an embedded token.
      output_dropout: rate of dropping what the softmax layer reads, drawn from the rng `dropout`.
      tied: whether the embedding is also the softmax layer's weight (Press and Wolf, 2017), so that the cell must have
        `embedding_size` outputs.
      dtype: type of the computation; logits are float32.

    Raises:
      ValueError: if `tied` and the sizes differ.
    """

    cell: Cell
    vocabulary_size: int
    embedding_size: int
    output_dropout: float = 0.0
    tied: bool = False
    dtype: DTypeLike = jnp.float32

    def setup(self):
        if self.tied and self.cell.output_size != self.embedding_size:
            raise ValueError(
                f"tied weights need outputs of the embedding's size {self.embedding_size}, got {self.cell.output_size}"
            )
        self.embedding = nn.Embed(self.vocabulary_size, self.embedding_size, dtype=self.dtype)
        self.recurrent = RNN(self.cell)
        self.dropout = nn.Dropout(self.output_dropout)
        if self.tied:
            self.bias = self.param("bias", nn.initializers.zeros, (self.vocabulary_size,))
        else:
            self.softmax = nn.Dense(self.vocabulary_size, dtype=self.dtype)

    def __call__(
        self, tokens: Int[Array, "B T"], state: State | None = None, *, deterministic: bool = False
    ) -> tuple[Float[Array, "B T V"], State]:
        """Returns the logits of the token after each token, and the state after the last one.

        Dropout is drawn from the rng `dropout`, as in `rnnjax.nn.RNN`.
        """
        return self.predict(self.embedding(tokens), state, deterministic=deterministic)

    def predict(
        self, xs: Float[Array, "B T E"], state: State | None = None, *, deterministic: bool = False
    ) -> tuple[Float[Array, "B T V"], State]:
        """Returns the same for embedded tokens."""
        ys, state = self.recurrent(xs, state=state, deterministic=deterministic)
        ys = self.dropout(ys, deterministic=deterministic or self.is_initializing())
        # As the rows of one matrix: on a CPU the gradient of the product is then a tenth faster.
        rows = ys.reshape(math.prod(ys.shape[:-1]), ys.shape[-1])
        logits = self.embedding.attend(rows) + self.bias if self.tied else self.softmax(rows)
        return logits.reshape(*ys.shape[:-1], self.vocabulary_size).astype(jnp.float32), state


@functools.partial(jax.jit, static_argnames=("model", "length", "temperature", "top_k", "top_p"))
def continue_tokens(
    model: LanguageModel,
    variables: Any,
    prompt: Int[Array, "B P"],
    key: PRNGKeyArray,
    *,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Array, "B N"]:
    """Returns tokens that follow each prompt, each drawn by `rnnjax.models.sampling.sample`, as one program.

    Args:
      model: the model.
      variables: its variables.
      prompt: the tokens ``[B, P]`` to continue.
      key: PRNG key; the same key draws the same tokens.
      length: number N of tokens to draw.
      temperature, top_k, top_p: as in `sample`.

    Raises:
      ValueError: for a prompt without tokens or of other axes, or a length below 1, and as `sample`.
    """
    if prompt.ndim != 2 or not prompt.shape[1]:
        raise ValueError(f"prompt must have shape [B, P], with one token at least, got {list(prompt.shape)}")
    check_size("length", length)

    def draw(carry: tuple[Array, State], key: PRNGKeyArray) -> tuple[tuple[Array, State], Array]:
        logits, state = carry
        token = sample(key, logits, temperature=temperature, top_k=top_k, top_p=top_p)
        logits, state = model.apply(variables, token[:, None], state, deterministic=True)
        return (logits[:, -1], state), token

    logits, state = model.apply(variables, prompt, deterministic=True)
    _, tokens = jax.lax.scan(draw, (logits[:, -1], state), jax.random.split(key, length))
    return tokens.T
