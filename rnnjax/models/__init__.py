"""Models: Flax modules and functions made of recurrent layers, the losses of sequences, and search."""

from rnnjax.models.classifier import SequenceClassifier
from rnnjax.models.decoding import beam_search, greedy
from rnnjax.models.encoder_decoder import EncoderDecoder
from rnnjax.models.losses import mean_over_steps, sequence_loss, token_losses

__all__ = [
    "EncoderDecoder",
    "SequenceClassifier",
    "beam_search",
    "greedy",
    "mean_over_steps",
    "sequence_loss",
    "token_losses",
]
