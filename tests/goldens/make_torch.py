"""Makes tests/goldens/torch/*.npz with PyTorch's recurrent modules: ``python tests/goldens/make_torch.py``.

Each kind with one and two layers, in one direction and in both. All but the smallest have `lengths` and are packed;
the smallest and the largest start from random states. Every parameter is random, the biases too. A file holds

  x, lengths, loss_weight   inputs, valid steps (where packed), weights of the loss
  param/<name>              the module's parameters under PyTorch's names
  initial/<i>, final/<i>    h (and c), [layers * directions, B, ...], before and after
  y                         outputs, zero past the lengths
  grad/<name>, grad_x, grad_initial/<i>
                            gradients of sum(y**2 * loss_weight) + sum of the squares of all final states

PyTorch computes in float64 from numbers that float32 holds exactly, so that the files have no rounding of their own.
Those here were made with PyTorch 2.13.0 on a CPU.
"""

import itertools
import pathlib

import numpy as np
import torch
from torch.nn.utils import rnn as packing

FOLDER = pathlib.Path(__file__).parent / "torch"
T, B, I, H, P = 5, 3, 3, 4, 2
LENGTHS = (3, 5, 1)
KINDS = {
    "rnn_tanh": lambda **options: torch.nn.RNN(I, H, nonlinearity="tanh", **options),
    "rnn_relu": lambda **options: torch.nn.RNN(I, H, nonlinearity="relu", **options),
    "lstm": lambda **options: torch.nn.LSTM(I, H, **options),
    "lstm_projection": lambda **options: torch.nn.LSTM(I, H, proj_size=P, **options),
    "gru": lambda **options: torch.nn.GRU(I, H, **options),
}


def normal(*shape):
    """Returns random float64 numbers that float32 holds exactly."""
    return torch.randn(*shape, dtype=torch.float32).double()


def build(kind, layers, bidirectional):
    module = KINDS[kind](num_layers=layers, bidirectional=bidirectional, batch_first=True).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(normal(*parameter.shape) * 0.5)
    return module


def initial_states(module, random):
    rows = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or H] + [H] * isinstance(module, torch.nn.LSTM)
    states = [normal(rows, B, size) * random for size in sizes]
    return [state.requires_grad_() for state in states]


def run(module, x, initial, lengths):
    """Returns the padded outputs and the list of final states."""
    state = tuple(initial) if len(initial) == 2 else initial[0]
    if lengths is None:
        y, final = module(x, state)
    else:
        packed = packing.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, final = module(packed, state)
        y, _ = packing.pad_packed_sequence(y, batch_first=True, total_length=T)
    return y, list(final) if isinstance(final, tuple) else [final]


def golden(kind, layers, bidirectional):
    module = build(kind, layers, bidirectional)
    x = normal(B, T, I).requires_grad_()
    lengths = torch.tensor(LENGTHS) if layers == 2 or bidirectional else None
    initial = initial_states(module, random=(layers == 2) == bidirectional)
    y, final = run(module, x, initial, lengths)
    weight = normal(*y.shape[1:])
    ((y**2 * weight).sum() + sum((state**2).sum() for state in final)).backward()
    values = {"x": x, "loss_weight": weight, "y": y, "grad_x": x.grad}
    for i, (before, after) in enumerate(zip(initial, final)):
        values |= {f"initial/{i}": before, f"final/{i}": after, f"grad_initial/{i}": before.grad}
    for name, parameter in module.named_parameters():
        values |= {f"param/{name}": parameter, f"grad/{name}": parameter.grad}
    arrays = {name: value.detach().numpy().astype(np.float32) for name, value in values.items()}
    return arrays if lengths is None else arrays | {"lengths": lengths.numpy().astype(np.int32)}


def main():
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    for kind, layers, bidirectional in itertools.product(KINDS, (1, 2), (False, True)):
        name = f"{kind}_{layers}_layer{'s' * (layers > 1)}{'_bidirectional' * bidirectional}"
        np.savez_compressed(FOLDER / f"{name}.npz", **golden(kind, layers, bidirectional))


if __name__ == "__main__":
    main()
