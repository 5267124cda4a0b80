"""Sentences in, sentences out: a trained encoder-decoder with its vocabularies."""

from __future__ import annotations

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

_WIDTH_STEP = 8  # widths of sources are multiples of it, so that few programs are compiled


class Output(NamedTuple):
    """One translation: its text, its tokens up to the end, and its score."""

    text: str
    tokens: tuple[int, ...]
    score: float


class Alignment(NamedTuple):
    """What a translation attended to: ``weights [T, S]`` and the tokens of both sides as text."""

    weights: Float[np.ndarray, "T S"]
    source: list[str]
    target: list[str]


class Translator:
    """Translates with parameters that are given every time; compiles one program a width of sources.

    Args:
      model: the model.
      source, target: its vocabularies.
      max_length: most tokens of an output, the end among them, and of a source, which is cut after them.
      length_penalty: of the beam, as in `beam_search`.
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
        """Returns the outputs for each line, the best first: one, or as many as the beam found.

        A line without tokens gives one empty output. Lines of about the same length are taken together.
        """
        tokens = [self._source.encode(line)[: self._max_length] for line in lines]
        order = sorted((i for i, sequence in enumerate(tokens) if sequence), key=lambda i: len(tokens[i]))
        outputs: list[list[Output]] = [[Output("", (), 0.0)] for _ in lines]
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            # The last batch is filled up with its last row: a batch of another size would be compiled anew.
            batch = [tokens[row] for row in rows + rows[-1:] * (batch_size - len(rows))]
            source, lengths = padded(batch, _rounded_up(len(batch[-1])))
            found = jax.device_get(self._search(params, source, lengths, beam_size=beam_size))
            for number, row in enumerate(rows):
                outputs[row] = self._outputs(jax.tree.map(lambda leaf, n=number: leaf[n], found))
        return outputs

    def _hypotheses(self, params: Any, source: Any, lengths: Any, beam_size: int) -> Hypotheses:
        """Returns the hypotheses ``[B, K]`` of a batch of sources."""
        encoded = self._model.encode(params, source, lengths)
        limits = {"length": self._max_length, "first": FIRST, "end": END, "padding": PADDING}
        step = self._model.decoder_step(params, encoded, beam=True)
        if beam_size == 1:
            return jax.tree.map(lambda leaf: leaf[:, None], greedy(step, encoded.state, **limits))
        penalty = {"beam_size": beam_size, "length_penalty": self._length_penalty}
        return beam_search(step, encoded.state, **limits, **penalty)

    def _outputs(self, found: Hypotheses) -> list[Output]:
        """Returns the outputs of one line, those that the beam did not find left out."""
        outputs = []
        for tokens, length, score in zip(*found):
            if np.isfinite(score):
                kept = tuple(tokens[:length].tolist())
                outputs.append(Output(self._target.decode(kept), kept, float(score)))
        return outputs

    def alignment(self, params: Any, line: str, output: Output) -> Alignment:
        """Returns what an output of a line attended to."""
        tokens = self._source.encode(line)[: self._max_length]
        source, lengths = padded([tokens], _rounded_up(len(tokens)))
        target, _ = padded([output.tokens], self._max_length)
        weights = np.asarray(self._align(params, source, lengths, jnp.asarray(target)))[0]
        pieces = self._source.pieces(tokens), self._target.pieces(output.tokens)
        return Alignment(weights[: len(output.tokens), : len(tokens)], *pieces)


def _rounded_up(width: int) -> int:
    return -(-max(width, 1) // _WIDTH_STEP) * _WIDTH_STEP
