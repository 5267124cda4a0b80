"""Models: Flax modules made of recurrent layers, and the losses of sequences."""

from rnnjax.models.classifier import SequenceClassifier
from rnnjax.models.losses import mean_over_steps, sequence_loss, token_losses

__all__ = ["SequenceClassifier", "mean_over_steps", "sequence_loss", "token_losses"]
