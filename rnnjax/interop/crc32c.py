"""CRC-32C, the check sum that TensorFlow's files hold, by NumPy.

A register that a byte of zeros goes into changes linearly over GF(2), so that the sum of two texts, one behind the
other, follows from theirs. Many short lanes of a text are taken at once, a byte of each at a time, and then put
together by twos.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import UInt8, UInt32

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed
_ONES = 0xFFFFFFFF
_LONGEST = 8  # a lane has at most 2**8 bytes
_PIECE = 2**22  # bytes that are taken at once, which keeps the memory small
_MASK = 0xA282EAD8

# What a linear function of 32 bits makes of each value of each byte, the lowest first; its value for a number is XOR of
# those of the bytes.
_Linear = UInt32[np.ndarray, "4 256"]


def masked_crc32c(content: bytes | memoryview) -> int:
    """Returns the CRC-32C of bytes as LevelDB and TensorFlow write it: rotated, with a constant added."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + _MASK) & _ONES


def crc32c(content: bytes | memoryview) -> int:
    """Returns the CRC-32C of bytes."""
    text = np.frombuffer(content, np.uint8)
    register = np.array([_ONES], np.uint32)
    for begin in range(0, len(text), _PIECE):
        piece = text[begin : begin + _PIECE]
        register = _after_zeros(register, len(piece)) ^ _remainder(piece)
    return int(register[0]) ^ _ONES


def _remainder(text: UInt8[np.ndarray, " N"]) -> np.uint32:
    """Returns the register after a text that it began with at zero."""
    exponent = min(_LONGEST, len(text).bit_length() // 2)
    width = 2**exponent
    lanes = -(-len(text) // width)
    # Zeros in front change nothing of a register at zero.
    padded = np.concatenate([np.zeros(lanes * width - len(text), np.uint8), text])
    table, registers = _table(), np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, width).T):
        registers = table[(registers ^ column) & 255] ^ registers >> 8
    while len(registers) > 1:
        if len(registers) % 2:
            registers = np.concatenate([np.zeros(1, np.uint32), registers])
        registers = _apply(_zeros(exponent), registers[::2]) ^ registers[1::2]
        exponent += 1
    return registers[0]


@functools.cache
def _table() -> UInt32[np.ndarray, " 256"]:
    """Returns what a byte in an otherwise empty register becomes."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


@functools.cache
def _zeros(exponent: int) -> _Linear:
    """Returns what so many bytes of zeros, a power of two, make of a register."""
    if exponent:
        half = _zeros(exponent - 1)
        return _apply(half, half)
    values = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    return _table()[values & 255] ^ values >> 8


def _after_zeros(register: UInt32[np.ndarray, " 1"], count: int) -> UInt32[np.ndarray, " 1"]:
    """Returns a register after `count` bytes of zeros."""
    for exponent in range(count.bit_length()):
        if count >> exponent & 1:
            register = _apply(_zeros(exponent), register)
    return register


def _apply(linear: _Linear, registers: UInt32[np.ndarray, "..."]) -> UInt32[np.ndarray, "..."]:
    """Returns a linear function's values."""
    parts = (linear[byte][registers >> 8 * byte & 255] for byte in range(4))
    return functools.reduce(np.bitwise_xor, parts)
