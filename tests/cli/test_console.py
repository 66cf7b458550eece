import pytest
import typer

from compand.cli.console import short, size_of


@pytest.mark.parametrize("text, n", [("10", 10), ("10B", 10), ("10MB", 10**7), ("10MiB", 10 << 20), ("1.5k", 1500), ("2 GiB", 2 << 30),
                                     ("3KB", 3000), ("1t", 10**12)])
def test_sizes(text, n):
    assert size_of(text) == n


@pytest.mark.parametrize("text", ["", "MB", "-3", "1e3", "10 XB", "1.2.3", "10MiBs"])
def test_no_sizes(text):
    with pytest.raises(typer.BadParameter, match="10MiB"):
        size_of(text)


def test_short_numbers():
    assert [short(v) for v in (0, 0.0, 1.0, 12.345, 0.012345, float("nan"), 1e-9)] == ["0", "0", "1", "12.35", "0.0123", "-", "1e-09"]
