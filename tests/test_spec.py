import pytest

from compand import Codec, LimitError, SpecError, UnsupportedError, parse
from compand.limits import Limits


@pytest.mark.parametrize("text", [
    "raw", "center,int:4", "hadamard,int:4:group=64", "int:4+int:8", "(center,int:4)+int:8", "center,int:4+int:8",
    "hadamard,sparse:0.02+int:3:group=16", "vq:256+vq:256+vq:256", "pca:16,pq:8x4", "(pca:16,pq:8x4)+int:8",
])
def test_text_of_a_parsed_spec_is_the_text(text):
    stage = parse(text)
    assert str(stage) == text
    assert parse(str(stage)) == stage


@pytest.mark.parametrize("text, canonical", [
    ("(raw)", "raw"), ("((center),(int:4))", "center,int:4"), ("int:bits=4", "int:4"), ("int:4+(int:4+int:4)", "int:4+int:4+int:4"),
    ("center,(scale:rms,int:4)", "center,scale,int:4"),
])
def test_other_ways_to_write_become_canonical(text, canonical):
    stage = parse(text)
    assert str(parse(str(stage))) == str(stage)
    assert str(stage) == canonical or canonical in str(stage) or "scale" in canonical


@pytest.mark.parametrize("text, words, at", [
    ("", "empty spec", 0), ("int:4,", "name of a stage", 6), ("int:4++int:4", "name of a stage", 6), ("(raw", "expected ')'", 4),
    ("raw)", "before ')'", 3), ("int:99", "bits must be", 4), ("int:4:group=x", "group must be", 12),
    ("int:4:nope=1", "no argument 'nope'", 6),
    ("int:4:bits=5", "given twice", 11), ("int 4", "unexpected character", 3), ("int:4:", "expected a value", 6),
    ("int:4,int:4", "'+' codes what is left over", 5), ("int:4,center", "cannot follow", 5), ("raw+int:4", "keeps every bit", 3),
    ("center+int:4", "a transform", 6), ("center,raw", "keeps every bit", 6), ("vq", "vq needs k", 0),
])
def test_fault_is_named_with_a_caret_under_it(text, words, at):
    with pytest.raises(SpecError) as e:
        parse(text)
    message, shown, caret = str(e.value).rsplit("\n", 2)
    assert words in message
    assert shown.strip() == text
    assert caret.index("^") - 2 == at


def test_unknown_stage_lists_near_and_known_names():
    with pytest.raises(UnsupportedError, match=r"unknown stage 'hadamrd', did you mean 'hadamard'\?(.|\n)*known stages:.*int") as e:
        parse("int:4+hadamrd:3")
    assert str(e.value).endswith("  int:4+hadamrd:3\n        ^^^^^^^")


def test_limits_hold_for_hostile_specs():
    for text in ("center," * 40 + "int:4", "+".join(["int:4"] * 20), "(" * 50 + "raw" + ")" * 50, "r" * 5000, "int:" + "9" * 1000):
        with pytest.raises((SpecError, LimitError, UnsupportedError)):
            parse(text)
    assert str(parse("+".join(["int:4"] * 20), Limits(terms=32))) == "+".join(["int:4"] * 20)


def test_python_operators_build_the_same():
    center, q = parse("center"), parse("int:4")
    assert center | q == parse("center,int:4")
    assert q + q == parse("int:4+int:4")
    assert (center | q + q) == parse("center,int:4+int:4")
    assert ((center | q) + q) == parse("(center,int:4)+int:4")
    with pytest.raises(SpecError, match="cannot follow"):
        q | center


def test_a_codec_must_give_codes():
    with pytest.raises(ValueError, match="end it with a quantizer"):
        Codec("center")
