import pickle
import warnings

import numpy as np
import pytest

from compand import CompandError

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from compand.integration.sklearn import CodecTransformer


@pytest.mark.parametrize("estimator", [CodecTransformer(), CodecTransformer("pca,int:8:per=column", decode=True), CodecTransformer("vq:4")],
                         ids=str)
def test_check_estimator(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    assert not failed, failed
    assert sum(r["status"] == "passed" for r in results) >= 40


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((400, 16), dtype=np.float32)


def test_fit_transform_inverse(x):
    coder = CodecTransformer("klt,grouped:12").fit(x)
    codes = coder.transform(x)
    assert codes.shape == (400, 12) == (400, coder.n_bytes_) and codes.dtype == np.uint8
    assert np.array_equal(coder.inverse_transform(codes), coder.codec_.decode(coder.codec_.encode(x)))
    assert np.array_equal(pickle.loads(pickle.dumps(coder)).transform(x), codes)
    assert clone(coder).get_params() == coder.get_params() == {"spec": "klt,grouped:12", "decode": False}
    assert coder.get_feature_names_out().tolist() == [f"byte{i}" for i in range(12)]
    coder.set_output(transform="default")


def test_in_a_pipeline(x):
    y = (x @ np.arange(16) > 0).astype(int)
    model = make_pipeline(CodecTransformer("int:4", decode=True), LogisticRegression()).fit(x[:300], y[:300])
    assert model.score(x[300:], y[300:]) > 0.9
    assert model[:-1].get_feature_names_out()[:2].tolist() == ["x0", "x1"]


def test_errors(x):
    with pytest.raises(NotFittedError):
        CodecTransformer().transform(x)
    coder = CodecTransformer("pq:4x4").fit(x)
    for bad in [lambda: CodecTransformer("pq:4x4,rans").fit(x), lambda: CodecTransformer("oh").fit(x),
                lambda: coder.inverse_transform(x), lambda: coder.inverse_transform(np.zeros((2, 7), np.uint8))]:
        with pytest.raises(CompandError):
            bad()
