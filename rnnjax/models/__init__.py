"""Models: Flax modules and functions made of recurrent layers, losses of sequences, and decoding."""

from rnnjax.models.classifier import SequenceClassifier
from rnnjax.models.decoding import beam_search, greedy
from rnnjax.models.encoder_decoder import EncoderDecoder
from rnnjax.models.forecaster import Forecaster, HorizonForecaster, continue_series
from rnnjax.models.language_model import LanguageModel
from rnnjax.models.losses import mean_over_steps, sequence_loss, token_losses
from rnnjax.models.next_item import NextItem, SharedNextItem
from rnnjax.models.scheduled_sampling import ScheduledSampling
from rnnjax.models.skip_gram import SkipGram

__all__ = [
    "EncoderDecoder",
    "Forecaster",
    "HorizonForecaster",
    "LanguageModel",
    "NextItem",
    "ScheduledSampling",
    "SequenceClassifier",
    "SharedNextItem",
    "SkipGram",
    "beam_search",
    "continue_series",
    "greedy",
    "mean_over_steps",
    "sequence_loss",
    "token_losses",
]
