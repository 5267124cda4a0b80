"""Sequences that are made: what a cell keeps in mind, and whether it goes on beyond the lengths of training.

    python -m rnnjax.train --config configs/sequences.py[:variant]
    python -m rnnjax.train --config configs/sequences.py:parity --config.cell.kind=LRU --config.data.length=20

Every run ends with a table of accuracy and loss at 1, 2, 3 and 4 times the longest length of training: in the log, as
`accuracy_at_160` and so on in metrics.jsonl and summary.json, and as `plots/by_length.png`. Ours, with times, is in
docs/results.md. Names with `_short` are smaller than what is published. Where there are no times, the machine
did other work meanwhile. `s5`, `mqar` and `selective_copy` are for an accelerator.

| variant | what | source's figure |
|---|---|---|
| parity, lengths to 40 | is the number of ones odd? (Delétang et al., 2022) | RNN, LSTM 1.00 |
| parity_mingru | the same by two blocks of MinGRU | chance, 0.5: a linear cell with positive gates cannot |
| parity_delta | the same by GatedDeltaNet with rates up to 2 | with negative eigenvalues it can (Grazzi et al., 2025) |
| cycle_navigation, to 40 | left, stay, right on a cycle of five (the same) | RNN, LSTM 1.00 |
| modular_arithmetic, to 20 | 3 + 2 * 4 - 1 modulo five (the same, to 40) | RNN, LSTM 1.00 |
| s5, 12; s5_short, 6 | the product of permutations of five things (Merrill et al., 2024) | RNN 1.00, at that length |
| s5_swaps, 16 | the same, where each symbol swaps two neighbours | none |
| adding, 200; adding1000 | the sum of two marked numbers of T (Arjovsky et al., 2016) | always 1: loss 0.1667 |
| copy, 100 | ten symbols again after a silence of T (the same) | no memory: loss 10 ln 8 / (T + 20) |
| mqar, 64; mqar_short, 64 | the values of keys seen before (Arora et al., 2023) | none |
| mqar_short_mingru, 64 | the same by MinGRU in place of GatedLinearAttention | one of the four values, 0.25 |
| selective_copy, 4,096; _short, 64 | symbols again that noise was between (Gu and Dao, 2023) | none |

    python -m rnnjax.sweep --config configs/sequences.py:parity --seeds 8 --config.data.seed=0

Training examples follow from config.seed, too, so that seeds of a sweep differ in their data and each has a program of
its own. With config.data.seed all of them are trained on the same examples, by one program, and their spread is that of
initial parameters and order alone.

In the first four every length up to the longest is as frequent in training, in the next two every step is asked. In the
others all examples have the one length, and what is learnt need not hold at others.

What s5_short learns holds beyond its length by weight decay: without it the loss at 6 goes to zero all the same, and
answers after step 8 go wrong (docs/decisions.md). s5 has it for that reason, and was not trained.
"""

from typing import Any

from rnnjax.config import CellConfig, OptimizerConfig
from rnnjax.tasks.sequences import Config, SequencesConfig


def _automaton(
    name: str, length: int, epochs: int, cell: CellConfig, examples: int = 128_000, decay: float | None = None
) -> Config:
    """Returns what a finite automaton does: what is learnt at some lengths should hold at every length."""
    return Config(
        cell=cell,
        data=SequencesConfig(name=name, length=length, examples=examples),
        optimizer=OptimizerConfig(
            name="adam" if decay is None else "adamw",
            learning_rate=3e-3,
            schedule="cosine",
            weight_decay=decay,
            clip_norm=1.0,
        ),
        epochs=epochs,
    )


def _memory(
    name: str, length: int, epochs: int, cell: CellConfig, held_out: int = 512, embedding: int = 0, **options: Any
) -> Config:
    """Returns a problem of keeping things in mind over a length."""
    return Config(
        cell=cell,
        data=SequencesConfig(name=name, length=length, examples=64_000, held_out=held_out, **options),
        optimizer=OptimizerConfig(learning_rate=5e-3, schedule="cosine", clip_norm=1.0),
        embedding=embedding,
        epochs=epochs,
        batch_size=64,
    )


def _recall_short(cell: CellConfig) -> Config:
    """Returns MQAR of the length and the four pairs that are published, with 64 symbols in place of 8,192."""
    return _memory("mqar", 64, 5, cell, embedding=64, alphabet=64)


def _blocks(kind: str, layers: int, **options: Any) -> CellConfig:
    """Returns a stack of the blocks that linear cells are used in."""
    return CellConfig(kind, layers, ["gated_residual"], hidden_size=64, **options)


_LSTM64 = CellConfig("LSTM", hidden_size=64)
_GRU64 = CellConfig("GRU", hidden_size=64)
_RING = {"smallest_radius": 0.99, "largest_radius": 0.9999}

VARIANTS = {
    "parity": _automaton("parity", 40, 4, _LSTM64),
    "parity_mingru": _automaton("parity", 40, 4, _blocks("MinGRU", 2)),
    "parity_delta": _automaton("parity", 40, 4, CellConfig("GatedDeltaNet", hidden_size=64, heads=4, negative=True)),
    "cycle_navigation": _automaton("cycle_navigation", 40, 8, _LSTM64),
    "modular_arithmetic": _automaton("modular_arithmetic", 20, 12, _LSTM64),
    "s5": _automaton("s5", 12, 20, CellConfig("LSTM", hidden_size=512), 1_280_000, decay=0.3),
    "s5_short": _automaton("s5", 6, 3, CellConfig("LSTM", hidden_size=256), 640_000, decay=0.3),
    "s5_swaps": _automaton("s5_swaps", 16, 16, CellConfig("LSTM", hidden_size=128)),
    "adding": _memory("adding", 200, 3, _GRU64),
    "adding1000": _memory("adding", 1000, 3, _blocks("LRU", 2, **_RING)),
    "copy": _memory("copy", 100, 2, _blocks("LRU", 2, **_RING)),
    "mqar": _memory("mqar", 64, 64, CellConfig("LSTM", hidden_size=256), embedding=128),
    "mqar_short": _recall_short(_blocks("GatedLinearAttention", 2, heads=4, sharpness=4.0)),
    "mqar_short_mingru": _recall_short(_blocks("MinGRU", 2)),
    "selective_copy": _memory("selective_copy", 4096, 64, _blocks("MinGRU", 3), held_out=64),
    "selective_copy_short": _memory("selective_copy", 64, 10, _blocks("MinGRU", 3), memory=8),
}
DEFAULT = "parity"
