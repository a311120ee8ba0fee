"""What holds for all tests."""

from __future__ import annotations

import os

import pytest
from converted import Command
from hypothesis import HealthCheck, settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any test imports TensorFlow

pytest_plugins = ["object_servers", "fault_proxy"]

# No test depends on the speed of the machine.
settings.register_profile(
    "any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("any speed")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process, which is not its own."""
    return Command(capsys)
