"""Translation with an encoder-decoder, with attention or without."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.attention import SCORES, Bahdanau, Luong
from rnnjax.cells.cell import Cell
from rnnjax.cells.gated_cell import GatedCell
from rnnjax.cells.tree import with_last
from rnnjax.config import CellConfig, DataConfig, TrainConfig, build_cell, check_source
from rnnjax.config_group import ConfigGroup
from rnnjax.data.bucketing import assign_buckets, choose_widths, padding_waste
from rnnjax.data.dataset import DataSet
from rnnjax.data.sentence_vocabulary import FIRST, KINDS, SentenceVocabulary, vocabulary_from
from rnnjax.data.translation import NAMES, load_translation
from rnnjax.errors import require
from rnnjax.models.encoder_decoder import EncoderDecoder
from rnnjax.models.losses import mean_over_steps, sequence_loss
from rnnjax.tasks import task
from rnnjax.tasks.alignment_plot import plot_alignment
from rnnjax.tasks.options import MOST_BEAMS
from rnnjax.tasks.task import Batch, Buckets, Kept, Metrics, Weighted
from rnnjax.tasks.translator import Output, Translator

_ATTENTION = ("none", "bahdanau", "luong")
_PICTURES = 4
_LONGEST = 100_000
_FIELDS = ("source", "target")

# How sacrebleu splits words. Multi30k is tokenised and in lower case already, and compared as it is, like in published
# figures. Korean and dates are split into characters.
_BLEU_TOKENS = {"multi30k_de_en": "none", "tatoeba_en_ko": "char", "dates": "char"}

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class VocabularyConfig(ConfigGroup):
    """The vocabularies of source and target.

    Attributes:
      kind: "char", "word", "bpe" or "unigram".
      source_size, target_size: most tokens of each.
    """

    kind: str = "bpe"
    source_size: int = 8000
    target_size: int = 8000

    def check(self) -> None:
        super().check()
        require(self.kind in KINDS, f"vocabulary.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for name in ("source_size", "target_size"):
            require(getattr(self, name) >= 5, f"vocabulary.{name} must be at least 5, got {getattr(self, name)}")


@dataclasses.dataclass
class SamplingConfig(ConfigGroup):
    """Scheduled sampling: how often the decoder reads its own prediction in training.

    Attributes:
      probability: of doing so at a step, after the ramp; 0 is teacher forcing.
      ramp_steps: training steps over which the probability rises from 0.
    """

    probability: float = 0.0
    ramp_steps: int = 0

    def check(self) -> None:
        super().check()
        require(0 <= self.probability <= 1, f"sampling.probability must be from 0 to 1, got {self.probability}")
        require(self.ramp_steps >= 0, f"sampling.ramp_steps must not be negative, got {self.ramp_steps}")


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task; `cell` is the cell of both encoder and decoder.

    Attributes:
      embedding_size: features of an embedded token.
      attention: "none", "bahdanau" or "luong".
      score: score function of the attention: "additive", "dot", "general" or "concat".
      input_feeding: whether Luong's attention feeds its output to the next step.
      bidirectional: whether the encoder reads in both directions.
      reverse_source: whether an encoder of one direction reads the source backwards.
      context: whether the decoder reads the encoder's final state at every step, with attention or without.
      max_length: most tokens of a sequence; longer pairs are left out of training.
      max_buckets: most widths that batches are padded to; fewer are used if less than a tenth is padding.
      label_smoothing: share of the target's probability that is spread over all tokens, in training.
      beam_size, length_penalty: of the search whose translations are scored.
    """

    later_fields = ("context",)

    task: str = "translate"
    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(name="dates"))
    cell: CellConfig = dataclasses.field(default_factory=lambda: CellConfig(kind="GRU", hidden_size=64))
    vocabulary: VocabularyConfig = dataclasses.field(default_factory=VocabularyConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    embedding_size: int = 32
    attention: str = "bahdanau"
    score: str = "additive"
    input_feeding: bool = True
    bidirectional: bool = True
    reverse_source: bool = False
    context: bool = False
    max_length: int = 50
    max_buckets: int = 24
    label_smoothing: float = 0.0
    beam_size: int = 1
    length_penalty: float = 1.0

    def check(self) -> None:
        super().check()
        check_source(self.data, NAMES, made=("dates", "dates are generated"), own=("tsv", "pairs"))
        known = self.attention in _ATTENTION
        require(known, f"attention must be one of {', '.join(_ATTENTION)}, got {self.attention!r}")
        require(self.score in SCORES, f"score must be one of {', '.join(SCORES)}, got {self.score!r}")
        both = self.bidirectional and self.reverse_source
        require(not both, "a bidirectional encoder reads the source in reverse already; leave reverse_source out")
        for name in ("embedding_size", "max_buckets", "beam_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        longest = 2 <= self.max_length <= _LONGEST
        require(longest, f"max_length must be from 2 to {_LONGEST}, got {self.max_length}")
        require(self.beam_size <= MOST_BEAMS, f"beam_size must be at most {MOST_BEAMS}, got {self.beam_size}")
        smooth = 0 <= self.label_smoothing < 1
        require(smooth, f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        build_decoder(self)


class Task(task.Task):
    """Translating sentences, trained by the masked cross-entropy of the target's tokens.

    Its data raises `DataError` as `rnnjax.data.translation.load_translation` does.
    """

    config: Config
    best_metric, higher_is_better = "loss", False

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        source, target = kept_vocabularies(self.kept)
        self.model = build_model(config, source.size, target.size)
        self.cell = self.model.decoder
        limits = {"max_length": config.max_length, "length_penalty": config.length_penalty}
        self.translator = Translator(self.model, source, target, **limits)
        self.sampled = config.sampling.probability > 0
        if self.sampled:
            # Training steps, once for each example, since what is carried is split over devices as the batch is.
            self.carry = jnp.zeros(config.batch_size, jnp.int32)
        if data.splits:
            self.buckets, self.waste = build_buckets(config, data)

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        text = load_translation(
            config.data.name,
            config.data.path,
            kind=config.vocabulary.kind,
            source_size=config.vocabulary.source_size,
            target_size=config.vocabulary.target_size,
            max_length=config.max_length,
            vocabularies=kept_vocabularies(kept) if kept else None,
        )
        kept = {"source": text.source.as_text(), "target": text.target.as_text()}
        return dataclasses.replace(text.data, kept=kept, raw=text.pairs)

    def loss(self, params: Any, carry: Any, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, Any]:
        probability = None
        # In evaluation, steps are not counted: the carry of training does not pass through it.
        if self.sampled and key is not None:
            probability = sampling_probability(self.config.sampling, carry[0])
            carry = carry + 1
        source, target = (batch["source"], batch["source_length"]), batch["target"]
        logits = self.model.logits(params, *source, target, sampling=probability, key=key)
        # In evaluation the loss is the plain cross-entropy, which models with and without smoothing have in common.
        smoothing = 0.0 if key is None else self.config.label_smoothing
        return token_metrics(logits, target, batch["target_length"], smoothing), carry

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        return means | {"perplexity": math.exp(min(means["loss"], 700.0))}

    def scores(self, params: Any, split: str) -> dict[str, float]:
        sources, references = zip(*self.data.raw[split])
        texts = self._best(params, sources, self.config.beam_size, self.config.batch_size)
        return translation_scores(texts, references, self.config.data.name) | {"padding_waste": self.waste}

    def plots(self, params: Any, directory: Path) -> None:
        if self.config.attention == "none":
            return
        lines = [source for source, _ in self.data.raw["test"][:_PICTURES]]
        outputs_of_lines = self.translator.translate(params, lines)
        for number, (line, outputs) in enumerate(zip(lines, outputs_of_lines), 1):
            draw_alignment(self.translator, params, line, outputs[0], directory / f"attention_{number}.png")

    def translate(self, params: Any, lines: Sequence[str], beam_size: int) -> list[str]:
        return self._best(params, lines, beam_size, min(self.config.batch_size, max(len(lines), 1)))

    def _best(self, params: Any, lines: Sequence[str], beam_size: int, batch_size: int) -> list[str]:
        outputs = self.translator.translate(params, lines, beam_size=beam_size, batch_size=batch_size)
        return [best.text for best, *_ in outputs]

    def generate(
        self,
        params: Any,
        *,
        beam_size: int = 4,
        n_best: int = 1,
        lines: Iterable[str] = (),
        plots: Path | None = None,
    ) -> Iterator[str]:
        """Yields the best translations of every line.

        Args:
          params: the parameters.
          beam_size: width of the beam.
          n_best: how many of its results are given of a line; where several are, with their scores.
          lines: the sources.
          plots: where the attention weights of the first ones are drawn.

        Raises:
          ConfigError: if more are wanted than a beam has.
        """
        require(n_best <= beam_size, f"--n-best must be from 1 to the beam size, {beam_size}, got {n_best}")
        drawn = 0
        for line in lines:
            outputs = self.translator.translate(params, [line], beam_size=beam_size)[0]
            draws = self.config.attention != "none" and drawn < _PICTURES and bool(outputs[0].tokens)
            if draws and plots is not None:
                drawn += 1
                draw_alignment(self.translator, params, line, outputs[0], plots / f"translation_{drawn}.png")
            yield from output_lines(outputs, n_best)


def kept_vocabularies(kept: Kept) -> tuple[SentenceVocabulary, SentenceVocabulary]:
    """Returns the vocabularies of source and target that a run has kept."""
    return vocabulary_from(kept["source"]), vocabulary_from(kept["target"])


def build_model(config: Config, source_size: int, target_size: int) -> EncoderDecoder:
    """Returns the model of a config for vocabularies of these sizes."""
    encoder = build_cell(config.cell)
    return EncoderDecoder(
        source_size,
        target_size,
        config.embedding_size,
        encoder,
        build_decoder(config),
        backward=encoder if config.bidirectional else None,
        reverse=config.reverse_source,
        context=config.context,
        first=FIRST,
        dtype=jnp.dtype(config.dtype),
    )


def build_decoder(config: Config) -> Cell:
    """Returns the decoder's cell: the config's cell, with attention around its top layer.

    Raises:
      ConfigError: if the cell or the score does not fit.
    """
    cell = build_cell(config.cell)
    if config.attention == "none":
        return cell
    # The outputs of both directions side by side.
    memory_size = cell.output_size * (2 if config.bidirectional else 1)
    try:
        return with_last(cell, lambda top: _with_attention(config, top, memory_size))
    except (TypeError, ValueError) as error:
        require(False, f"attention: {error}")
        raise  # never reached: `require` has raised, which type checkers do not know


def _with_attention(config: Config, cell: GatedCell | Any, memory_size: int) -> Cell:
    """Returns a cell with attention around it."""
    if config.attention == "bahdanau":
        return Bahdanau(cell, memory_size, score=config.score)
    return Luong(cell, memory_size, score=config.score, input_feeding=config.input_feeding)


def build_buckets(config: Config, data: DataSet) -> tuple[Buckets, float]:
    """Returns the buckets of all splits, chosen for the training split, and the share of padding in that split."""
    lengths = {split: {field: arrays[f"{field}_length"] for field in _FIELDS} for split, arrays in data.splits.items()}
    whole = {field: data.splits["train"][field].shape[1] for field in _FIELDS}
    smallest = min(config.batch_size, len(data.splits["train"]["source"]))
    widths = choose_widths(lengths["train"], most=config.max_buckets, smallest=smallest)
    widths = (*widths[:-1], whole)  # other splits may have longer sequences
    waste = padding_waste(lengths["train"], widths)
    _log.info("%d buckets of %s: %.1f%% of a batch is padding", len(widths), " and ".join(_FIELDS), 100 * waste)
    return Buckets({split: assign_buckets(part, widths) for split, part in lengths.items()}, widths), waste


def sampling_probability(config: SamplingConfig, steps: Array) -> Array:
    """Returns the probability that the decoder reads its own prediction after `steps` training steps."""
    return config.probability * jnp.minimum(1.0, steps / max(config.ramp_steps, 1) if config.ramp_steps else 1.0)


def token_metrics(logits: Float[Array, "B T V"], target: Array, lengths: Array, smoothing: float) -> Metrics:
    """Returns loss and accuracy of the tokens, and whether all tokens of a sequence are right.

    As long as all tokens so far are right, greedy search reads the same as teacher forcing, so that `exact_match` is
    the one of greedy search.

    Args:
      logits: the scores of every token.
      target: the right tokens ``[B, T]``.
      lengths: number of valid tokens ``[B]``.
      smoothing: share of the target's probability that is spread over all tokens.
    """
    valid = (jnp.arange(target.shape[1]) < lengths[:, None]).astype(jnp.float32)
    loss, count = sequence_loss(logits, target, valid)
    if smoothing:
        spread, _ = mean_over_steps(-_mean_log_probability(logits), valid)
        loss = (1 - smoothing) * loss + smoothing * spread
    right = (logits.argmax(-1) == target).astype(jnp.float32)
    accuracy, _ = mean_over_steps(right, valid)
    exact = jnp.all((right > 0) | (valid == 0), axis=-1).astype(jnp.float32)
    return {"loss": Weighted(loss, count), "accuracy": Weighted(accuracy, count), "exact_match": exact}


def _mean_log_probability(logits: Float[Array, "B T V"]) -> Float[Array, "B T"]:
    return jax.nn.log_softmax(logits).mean(-1)


def translation_scores(outputs: Sequence[str], references: Sequence[str], name: str) -> dict[str, float]:
    """Returns `bleu` and `chrf` (0 to 100) and `exact_match` (0 to 1) of translations.

    BLEU (Papineni et al., 2002) and chrF (Popović, 2015) are sacrebleu's (Post, 2018).

    Raises:
      ConfigError: if sacrebleu is not installed.
    """
    try:
        # Imported here because only translation needs it.
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        require(False, 'translations are scored by the package sacrebleu: pip install "rnnjax[translate]"')
        raise
    exact = sum(output == reference for output, reference in zip(outputs, references)) / len(references)
    return {
        # `force`: no warning about tokenised text.
        "bleu": BLEU(tokenize=_BLEU_TOKENS.get(name, "13a"), force=True).corpus_score(outputs, [references]).score,
        "chrf": CHRF().corpus_score(outputs, [references]).score,
        "exact_match": exact,
    }


def output_lines(outputs: Sequence[Output], n_best: int) -> Iterator[str]:
    """Yields the best outputs of a line: the text if `n_best` is 1, otherwise the score, a tab and the text."""
    if n_best == 1 or not outputs[0].tokens:
        yield outputs[0].text
    else:
        yield from (f"{output.score:.4f}\t{output.text}" for output in outputs[:n_best])


def draw_alignment(translator: Translator, params: Any, line: str, output: Output, path: Path) -> None:
    """Plots the attention weights of an output.

    Args:
      translator: made the output.
      params: parameters of its model.
      line: the source.
      output: a translation of it; nothing is drawn if it is empty.
      path: of the plot.
    """
    if output.tokens:
        plot_alignment(*translator.alignment(params, line, output), path)
