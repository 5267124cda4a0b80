"""Language models of characters and of words, trained by truncated BPTT that carries its state."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnnjax.cells.cell import Cell, State
from rnnjax.config import CellConfig, DataConfig, TrainConfig, build_cell, check_held_out, check_source
from rnnjax.data.dataset import DataSet
from rnnjax.data.lanes import evaluation_windows, training_windows
from rnnjax.data.text import Cuts, Texts, load_embedded_text, load_own_text, load_ptb, load_tiny_shakespeare
from rnnjax.data.vocabulary import CharacterVocabulary, TextVocabulary, WordVocabulary
from rnnjax.errors import ConfigError, DataError, require
from rnnjax.memory import require_room_for
from rnnjax.models.language_model import LanguageModel, continue_tokens
from rnnjax.models.losses import mean_over_steps, token_losses
from rnnjax.tasks import task
from rnnjax.tasks.likeliest import likeliest
from rnnjax.tasks.task import Batch, Field, Kept, Metrics, Stream, Weighted
from rnnjax.unrolling.selecting import select

_TEXTS = ("tinyshakespeare", "ptb", "embedded", "text")


@dataclasses.dataclass
class TextConfig(DataConfig):
    """The text, and how it is split into tokens.

    Attributes:
      name: "tinyshakespeare", "ptb", "embedded" for one that CPython ships, or "text" for your own at `path`: a
        UTF-8 file, or a folder with `train.txt`, `valid.txt` and `test.txt` (or `NAME.train.txt` and so on).
      tokens: "characters" or "words".
      vocabulary_size: most words that the model knows, `<eos>` and `<unk>` included.
      validation_fraction, test_fraction: of a text in one file; validation is at its end, test before that.
    """

    name: str = "tinyshakespeare"
    tokens: str = "characters"
    vocabulary_size: int = 10_000
    validation_fraction: float = 0.1
    test_fraction: float = 0.05

    def check(self) -> None:
        super().check()
        made = "embedded", "the embedded text comes with Python"
        check_source(self, _TEXTS, made=made, own=("text", "texts"))
        known = self.tokens in ("characters", "words")
        require(known, f'data.tokens must be "characters" or "words", got {self.tokens!r}')
        require(self.vocabulary_size >= 3, f"data.vocabulary_size must be at least 3, got {self.vocabulary_size}")
        check_held_out(self.validation_fraction, self.test_fraction)


@dataclasses.dataclass
class Config(TrainConfig):
    """Fields of this task.

    Attributes:
      window: number T of steps over which gradients are propagated back.
      embedding_size: features of an embedded token.
      tied: whether the embedding is also the weight of the softmax layer.
      output_dropout: rate of dropout on the input of the softmax layer (`cell.dropout.output_rate` is that of every
        layer).
      init_scale: if given, all parameters, biases included, are initialised uniformly within plus and minus this.
    """

    task: str = "language_model"
    window: int = 100
    embedding_size: int = 128
    tied: bool = False
    output_dropout: float = 0.0
    init_scale: float | None = None
    cell: CellConfig = dataclasses.field(default_factory=lambda: CellConfig(kind="LSTM"))
    data: TextConfig = dataclasses.field(default_factory=TextConfig)

    def check(self) -> None:
        super().check()
        for name in ("window", "embedding_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        rate, scale = self.output_dropout, self.init_scale
        require(0 <= rate < 1, f"output_dropout must be from 0 to below 1, got {rate}")
        require(scale is None or scale > 0, f"init_scale must be positive, got {scale}")
        require(
            scale is None or not self.cell.chosen().get("forget_bias"),
            "init_scale draws the forget gate's bias too; leave cell.forget_bias out",
        )
        size = build_cell(self.cell).output_size
        require(
            not self.tied or size == self.embedding_size,
            f"tied weights need embedding_size {size}, the size of the cell's outputs, got {self.embedding_size}",
        )


class Task(task.Task):
    """Windows of text `tokens [B, T + 1]`, each predicting its last T tokens; the state is carried on between them.

    Metrics are means over tokens: `loss` in nats, and `bits_per_character` or, for words, `perplexity`. `predict`
    returns the logits of the token after each.
    """

    config: Config
    cell: Cell
    best_metric, higher_is_better = "loss", False
    ordered = True

    def __init__(self, config: Config, data: DataSet):
        super().__init__(config, data)
        self.vocabulary, self.cell = kept_vocabulary(config.data, self.kept), build_cell(config.cell)
        self.dtype = jnp.dtype(config.dtype)
        require_room_for(self._states_and_parameters, "the states of a batch and the cell's parameters")
        sizes = self.vocabulary.size, config.embedding_size
        self.model = LanguageModel(self.cell, *sizes, config.output_dropout, config.tied, self.dtype)
        self.inputs = {"tokens": Field(("B", "T"), "int32", self.vocabulary.size)}
        self.carry = self.cell.initial_state(config.batch_size, self.dtype)
        self.stream = Stream(self._steps, self._likeliest)

    def _states_and_parameters(self) -> Any:
        states = self.cell.initial_state(self.config.batch_size, self.dtype)
        return states, self.cell.init(jax.random.key(0), self.config.embedding_size)

    @staticmethod
    def read(config: Config, kept: Kept) -> DataSet:
        """Reads the text.

        Args:
          config: the config.
          kept: the vocabulary of a run, if the text is to be read by that; otherwise it is learnt from the text.

        Raises:
          DataError: as the loaders in `rnnjax.data.text`, or for a character that a kept vocabulary lacks.
          ConfigError: if the text is too short for the batch, or a kept vocabulary is of other tokens.
        """
        texts = load(config.data)
        vocabulary = kept_vocabulary(config.data, kept) if kept else build_vocabulary(config.data, texts)
        kept = {"tokens": config.data.tokens, "vocabulary": entries(vocabulary)}
        return dataclasses.replace(windows(texts, vocabulary, config), kept=kept)

    def init(self, key: PRNGKeyArray) -> Any:
        params, scale = super().init(key), self.config.init_scale
        return params if scale is None else redraw_uniformly(key, params, scale)

    def loss(self, params: Any, carry: State, batch: Batch, key: PRNGKeyArray | None) -> tuple[Metrics, State]:
        tokens = batch["tokens"]
        # A lane that starts here has nothing before it, whatever the batch before has left.
        start = self.cell.start(params["params"]["recurrent"]["rnn"], len(tokens), self.dtype)
        state = select(batch["start"], start, carry)
        logits, carry = self.apply(params, tokens[:, :-1], state, key=key)
        losses = token_losses(logits, tokens[:, 1:])
        return {"loss": Weighted(*mean_over_steps(losses, batch["counted"]))}, carry

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        derived = perplexity if self.config.data.tokens == "words" else bits_per_character
        return means | derived(means)

    def predict(self, params: Any, inputs: Mapping[str, Any]) -> Float[Array, "B T V"]:
        return super().predict(params, inputs)[0]

    def generate(
        self,
        params: Any,
        *,
        prompt: str = "",
        length: int = 300,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yields the prompt and its continuation; the prompt is taken as the beginning of a line.

        Args:
          params: the parameters.
          prompt: what is continued.
          length: how many tokens follow.
          temperature: of sampling; 0 always takes the likeliest.
          top_k: if given, only the k likeliest are drawn.
          top_p: if given, only the likeliest are drawn that together have probability p.
          seed: of sampling.

        Raises:
          ConfigError: for a character that the model does not know (a word becomes `<unk>`).
        """
        try:
            tokens = self.vocabulary.encode(prompt).tolist()
        except ValueError as error:
            raise ConfigError(f"the prompt: {error}; leave it out") from None
        given = jnp.array([[self.vocabulary.start, *tokens]], jnp.int32)
        sampling = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        following = continue_tokens(self.model, params, given, jax.random.key(seed), **sampling)
        yield from self.vocabulary.decode([*tokens, *following[0].tolist()]).split("\n")

    def _steps(self, line: str) -> list[np.int32]:
        """Returns the tokens of a line as one that begins."""
        return [np.int32(token) for token in (self.vocabulary.start, *self.vocabulary.encode(line))]

    def _likeliest(self, logits: Float[np.ndarray, " V"], *, n_best: int = 1) -> str:
        """Returns the likeliest next tokens."""
        return likeliest(logits, n_best, lambda token: json.dumps(self.vocabulary.decode([token]), ensure_ascii=False))


def load(config: TextConfig) -> Texts:
    """Returns the texts that the config names."""
    cuts = Cuts(config.validation_fraction, config.test_fraction, at_lines=config.tokens == "words")
    if config.name == "tinyshakespeare":
        return load_tiny_shakespeare(config.path, cuts, config.tfds_dir)
    if config.name == "ptb":
        return load_ptb(config.path)
    return load_embedded_text(cuts) if config.path is None else load_own_text(config.path, cuts)


def build_vocabulary(config: TextConfig, texts: Texts) -> CharacterVocabulary | WordVocabulary:
    """Returns the vocabulary: all characters of all splits, or the most frequent words of the training split."""
    if config.tokens == "words":
        return WordVocabulary.of(texts.splits["train"], config.vocabulary_size)
    return CharacterVocabulary.of(texts.splits.values())


def entries(vocabulary: CharacterVocabulary | WordVocabulary) -> str | list[str]:
    """Returns the characters of a vocabulary, or its words."""
    return vocabulary.characters if isinstance(vocabulary, CharacterVocabulary) else list(vocabulary.words)


def kept_vocabulary(config: TextConfig, kept: Kept) -> CharacterVocabulary | WordVocabulary:
    """Returns the vocabulary that a run has kept.

    Raises:
      ConfigError: if it is not of the config's tokens.
    """
    fits = kept["tokens"] == config.tokens
    require(fits, f"the vocabulary is of {kept['tokens']}, but data.tokens is {config.tokens!r}; give the same")
    of_words = config.tokens == "words"
    return WordVocabulary(tuple(kept["vocabulary"])) if of_words else CharacterVocabulary(kept["vocabulary"])


def windows(texts: Texts, vocabulary: TextVocabulary, config: Config) -> DataSet:
    """Returns the data set of windows, arranged as in `rnnjax.data.lanes`.

    Raises:
      ConfigError: if the training text is too short for the batch.
      DataError: for a character that is not in the vocabulary.
    """
    try:
        tokens = {split: vocabulary.encode(text) for split, text in texts.splits.items()}
    except ValueError as error:
        raise DataError(f"{texts.source}: {error}; leave it out of the text") from None
    lanes, length = config.batch_size, config.window
    try:
        splits = {"train": training_windows(tokens["train"], lanes, length)}
    except ValueError as error:
        raise ConfigError(f"{error}; lower batch_size or window") from None
    for split in ("validation", "test"):
        splits[split] = evaluation_windows(tokens[split], vocabulary.start, lanes, length)
    return DataSet(texts.name, splits, texts.source, texts.checksum)


def redraw_uniformly(key: PRNGKeyArray, params: Any, scale: float) -> Any:
    """Returns parameters of the same shapes, every one uniform within plus and minus `scale`."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.uniform(k, leaf.shape, leaf.dtype, -scale, scale) for k, leaf in zip(keys, leaves)]
    return jax.tree.unflatten(structure, drawn)


def perplexity(means: dict[str, float]) -> dict[str, float]:
    """Returns the perplexity, the exponential of the loss; infinite if it overflows."""
    # `math.exp` raises an error above 709.
    return {"perplexity": math.exp(means["loss"]) if means["loss"] < 700 else math.inf}


def bits_per_character(means: dict[str, float]) -> dict[str, float]:
    """Returns the loss in bits."""
    return {"bits_per_character": means["loss"] / math.log(2)}
