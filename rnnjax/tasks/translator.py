"""Translates sentences with a trained encoder-decoder and its vocabularies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnnjax.data.sentence_vocabulary import END, FIRST, PADDING, SentenceVocabulary
from rnnjax.data.translation import padded
from rnnjax.models.decoding import Hypotheses, beam_search, greedy
from rnnjax.models.encoder_decoder import EncoderDecoder

_WIDTH_STEP = 8  # sources are padded to multiples of it, so that few programs are compiled


class Output(NamedTuple):
    """A translation: its text, its tokens up to the end, and its score."""

    text: str
    tokens: tuple[int, ...]
    score: float


class TranslationAlignment(NamedTuple):
    """The attention weights of a translation ``[T, S]``, and the tokens of source and target as text."""

    weights: Float[np.ndarray, "T S"]
    source: list[str]
    target: list[str]


class Translator:
    """Translates with parameters that each call is given; one program is compiled for each width of sources.

    Args:
      model: the model.
      source: vocabulary of the source.
      target: vocabulary of the target.
      max_length: most tokens of an output, including the end token, and of a source, which is truncated.
      length_penalty: as for `beam_search`.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        source: SentenceVocabulary,
        target: SentenceVocabulary,
        *,
        max_length: int,
        length_penalty: float = 0.0,
    ):
        self._model, self._source, self._target = model, source, target
        self._max_length, self._length_penalty = max_length, length_penalty
        self._search = jax.jit(self._hypotheses, static_argnames="beam_size")
        self._align = jax.jit(model.alignment)

    def translate(
        self, params: Any, lines: Sequence[str], *, beam_size: int = 1, batch_size: int = 1
    ) -> list[list[Output]]:
        """Returns the outputs for each line, the best first: one by greedy search, or those that beam search found.

        A line without tokens has one empty output.

        Args:
          params: parameters of the model.
          lines: the sources.
          beam_size: width of the beam; 1 is greedy search.
          batch_size: number of lines, of about the same length, that are translated at a time.
        """
        tokens = [self._source.encode(line)[: self._max_length] for line in lines]
        # By length, so that little of a batch is padding.
        order = sorted((i for i, sequence in enumerate(tokens) if sequence), key=lambda i: len(tokens[i]))
        outputs: list[list[Output]] = [[Output("", (), 0.0)] for _ in lines]
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            # The last batch is padded with its last row: another batch size would need another program.
            batch = [tokens[row] for row in rows + rows[-1:] * (batch_size - len(rows))]
            source, lengths = padded(batch, _rounded_up(len(batch[-1])))
            hypotheses = jax.device_get(self._search(params, source, lengths, beam_size=beam_size))
            for number, row in enumerate(rows):
                outputs[row] = self._outputs(jax.tree.map(lambda leaf, n=number: leaf[n], hypotheses))
        return outputs

    def _hypotheses(self, params: Any, source: Any, lengths: Any, beam_size: int) -> Hypotheses:
        """Returns the hypotheses ``[B, K]`` of a batch of sources."""
        encoded = self._model.encode(params, source, lengths)
        limits = {"length": self._max_length, "first": FIRST, "end": END, "padding": PADDING}
        step = self._model.decoder_step(params, encoded, beam=True)
        if beam_size == 1:
            # With an axis of one hypothesis, as a beam has it.
            return jax.tree.map(lambda leaf: leaf[:, None], greedy(step, encoded.state, **limits))
        penalty = {"beam_size": beam_size, "length_penalty": self._length_penalty}
        return beam_search(step, encoded.state, **limits, **penalty)

    def _outputs(self, hypotheses: Hypotheses) -> list[Output]:
        """Returns the outputs of one line, without empty places of the beam, whose score is not finite."""
        outputs = []
        for tokens, length, score in zip(*hypotheses):
            if np.isfinite(score):
                valid = tuple(tokens[:length].tolist())
                outputs.append(Output(self._target.decode(valid), valid, float(score)))
        return outputs

    def alignment(self, params: Any, line: str, output: Output) -> TranslationAlignment:
        """Returns the attention weights of an output for a line."""
        tokens = self._source.encode(line)[: self._max_length]
        source, lengths = padded([tokens], _rounded_up(len(tokens)))
        target, _ = padded([output.tokens], self._max_length)
        weights = np.asarray(self._align(params, source, lengths, jnp.asarray(target)))[0]
        pieces = self._source.pieces(tokens), self._target.pieces(output.tokens)
        return TranslationAlignment(weights[: len(output.tokens), : len(tokens)], *pieces)


def _rounded_up(width: int) -> int:
    return math.ceil(max(width, 1) / _WIDTH_STEP) * _WIDTH_STEP
