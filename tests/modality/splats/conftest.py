"""Scenes for tests."""

import pytest
from scenes import make_scene


@pytest.fixture
def scene():
    return make_scene
