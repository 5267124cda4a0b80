"""Vocabularies of characters, subwords or words, learnt by sentencepiece."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

from rnnjax.errors import DataError

PADDING, FIRST, END, UNKNOWN = range(4)

KINDS = ("char", "word", "bpe", "unigram")


class SentenceVocabulary:
    """Maps text to tokens and back. Tokens 0 to 3 are `<pad>`, `<bos>`, `<eos>` and `<unk>`.

    Attributes:
      size: number V of tokens.
    """

    def __init__(self, processor: Any):
        self._processor = processor
        self.size: int = processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without first and end tokens."""
        return self._processor.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of the tokens before the end token, with ``<unk>`` for unknown ones."""
        text_tokens = []
        for token in map(int, tokens):
            if token == END:
                break
            if token not in (PADDING, FIRST):
                text_tokens.append(token)
        return self._processor.decode(text_tokens).strip() if text_tokens else ""

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """Returns each token as text, with ``▁`` for a space."""
        return [self._processor.id_to_piece(int(token)) for token in tokens]

    def as_text(self) -> str:
        """Returns the vocabulary as text, from which `vocabulary_from` makes the same one."""
        return base64.b64encode(self._processor.serialized_model_proto()).decode()


def vocabulary_from(text: str) -> SentenceVocabulary:
    """Returns the vocabulary that `SentenceVocabulary.as_text` wrote down.

    Raises:
      DataError: if sentencepiece is missing.
    """
    return SentenceVocabulary(_sentencepiece().SentencePieceProcessor(model_proto=base64.b64decode(text)))


def _sentencepiece() -> Any:
    try:
        # Imported here because only translation needs it.
        import sentencepiece
    except ImportError:
        raise DataError(
            'vocabularies are those of the package sentencepiece: pip install "rnnjax[translate]"'
        ) from None
    return sentencepiece


def learn_vocabulary(lines: Sequence[str], kind: str, size: int) -> SentenceVocabulary:
    """Learns the vocabulary of a text, deterministically.

    Args:
      lines: the text.
      kind: "char", "word" (split at spaces), "bpe" (Sennrich et al., 2016) or "unigram" (Kudo, 2018).
      size: most tokens, the four special ones included.

    Raises:
      ValueError: for an unknown kind.
      DataError: if sentencepiece is missing or cannot learn from the text.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    sentencepiece = _sentencepiece()
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type=kind, vocab_size=size, **_options(kind)
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).split("] ")[-1].strip()
        raise DataError(
            f"no {kind} vocabulary of {size} tokens can be learned from {len(lines)} lines ({reason}); "
            "give more text or another size"
        ) from error
    return SentenceVocabulary(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()))


def _options(kind: str) -> dict[str, Any]:
    options = {
        "pad_id": PADDING,
        "bos_id": FIRST,
        "eos_id": END,
        "unk_id": UNKNOWN,
        "hard_vocab_limit": False,  # a text may have fewer words or characters
        "character_coverage": 1.0,
        "normalization_rule_name": "identity",
        "max_sentence_length": 1 << 20,
        "unk_surface": " <unk>" if kind == "word" else "<unk>",
        "bos_piece": "<bos>",
        "eos_piece": "<eos>",
        "num_threads": 1,  # the same text gives the same vocabulary
        "minloglevel": 2,
    }
    if kind == "char":
        options |= {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
    return options
