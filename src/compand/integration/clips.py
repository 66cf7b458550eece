"""Recordings read as recognisers hear them: mono, 16 kHz, float32 within ±1."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from ..errors import FormatError, InputError

RATE = 16000
KINDS = (".wav", ".flac", ".ogg", ".mp3")
MOST = 1 << 28  # samples of a file that are read: some hours


def read(path) -> np.ndarray:
    """One recording: float32 (samples,). Channels are averaged, other rates resampled.

    WAV of 16 bits needs nothing; all else needs ``soundfile``. Raises `FormatError` for what cannot be read.
    """
    path = Path(path)
    try:
        x, rate = _wave(path) if path.suffix.lower() == ".wav" else _other(path)
    except (OSError, EOFError, wave.Error, RuntimeError, ValueError) as e:
        raise FormatError(f"{path}: cannot be read as a recording ({str(e)[:120]})") from None
    if not len(x) or not np.isfinite(x).all():
        raise FormatError(f"{path}: a recording without samples, or with values that are not finite")
    return resampled(x.mean(axis=1, dtype=np.float32), rate)


def read_all(path) -> dict[str, np.ndarray]:
    """The recording, or all recordings of a folder in order of their names. Raises `InputError` if there are none."""
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in KINDS) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no recordings ({', '.join(KINDS)}) in this folder")
    return {p.name: read(p) for p in files}


def is_clips(path) -> bool:
    """Whether this is a recording or a folder that holds some, by the names."""
    path = Path(path)
    return any(p.suffix.lower() in KINDS for p in path.rglob("*")) if path.is_dir() else path.suffix.lower() in KINDS


def resampled(x: np.ndarray, rate: int) -> np.ndarray:
    """x (samples,) at 16 kHz, by cutting or padding its spectrum: float32.

    >>> t = np.arange(4410) / 44100
    >>> y = resampled(np.sin(2 * np.pi * 440 * t).astype(np.float32), 44100)
    >>> len(y), bool(np.abs(y - np.sin(2 * np.pi * 440 * np.arange(1600) / 16000)).max() < 0.01)
    (1600, True)
    """
    if rate == RATE:
        return x
    if rate < 1:
        raise FormatError(f"a recording of {rate} samples a second")
    n = max(1, round(len(x) * RATE / rate))
    f = np.fft.rfft(x)[:n // 2 + 1]
    if n < len(x) and n % 2 == 0:
        f[-1] = 2 * f[-1].real  # the middle frequency stands for two
    return (np.fft.irfft(f, n) * (n / len(x))).astype(np.float32)


def _wave(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path), "rb") as f:
        if f.getsampwidth() != 2:
            return _other(path)
        data = f.readframes(min(f.getnframes(), MOST))
        channels = f.getnchannels()
        x = np.frombuffer(data[:len(data) // (2 * channels) * 2 * channels], "<i2")
        return x.reshape(-1, channels).astype(np.float32) / 32768, f.getframerate()


def _other(path: Path) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError:
        raise InputError(f"{path.name}: reading this kind of recording needs soundfile: pip install 'compand[audio]'; WAV of 16 bits "
                         "needs nothing") from None
    return soundfile.read(str(path), frames=MOST, dtype="float32", always_2d=True)
