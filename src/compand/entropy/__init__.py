"""Codes to bytes."""

from functools import lru_cache


@lru_cache(256)
def coder_of(spec: str):
    """The entropy model of a part's coder spec, such as 'rans'."""
    from ..errors import SpecError
    from ..spec import parse

    stage = parse(spec)
    if stage.kind != "entropy":
        raise SpecError(f"{spec} is not an entropy coder")
    return stage
