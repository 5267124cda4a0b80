"""Models: Flax modules made of recurrent layers, and the losses of sequences."""

from rnnjax.models.classifier import SequenceClassifier
from rnnjax.models.forecaster import Forecaster, continue_series
from rnnjax.models.language_model import LanguageModel
from rnnjax.models.losses import mean_over_steps, sequence_loss, token_losses
from rnnjax.models.next_item import NextItem, SharedNextItem
from rnnjax.models.skip_gram import SkipGram

__all__ = [
    "Forecaster",
    "LanguageModel",
    "NextItem",
    "SequenceClassifier",
    "SharedNextItem",
    "SkipGram",
    "continue_series",
    "mean_over_steps",
    "sequence_loss",
    "token_losses",
]
