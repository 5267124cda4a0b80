"""Models: Flax modules made of recurrent layers."""

from rnnjax.models.classifier import SequenceClassifier

__all__ = ["SequenceClassifier"]
