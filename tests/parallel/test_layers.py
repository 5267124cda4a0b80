"""A stack over devices gives what it gives on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pipelines import ALIKE, KEY, LENGTHS, MAPS, MIXED, RESETS, T, check

from rnnjax import LSTM, Stack, TimedKey

PADDED = {"lengths": LENGTHS, "resets": RESETS, "key": KEY, "reverse": True}


@pytest.mark.parametrize("mapped", MAPS)
def test_unequal_layers_on_two_devices_with_everything_at_once(mapped):
    check(MIXED, 2, mapped, **PADDED)


@pytest.mark.parametrize("mapped", MAPS)
def test_two_layers_on_two_devices(mapped):
    check(Stack((LSTM(4),) * 2), 2, mapped)
