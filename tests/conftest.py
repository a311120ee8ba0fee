"""What holds for all tests."""

from __future__ import annotations

import os

import pytest
from converted import Command

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any test imports TensorFlow


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process, which is not its own."""
    return Command(capsys)
