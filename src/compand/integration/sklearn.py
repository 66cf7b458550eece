"""A scikit-learn transformer: features to bytes of codes, and back. Needs the extra `sklearn`."""

from __future__ import annotations

import numpy as np

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted, validate_data
except ImportError:
    raise ImportError("the scikit-learn transformer needs scikit-learn 1.6 or later: pip install 'compand[sklearn]'") from None

from ..codec import Codec
from ..errors import InputError
from .rows import RowFormat


class CodecTransformer(TransformerMixin, BaseEstimator):
    """Codes of each row as uint8 features: X (n, d) → (n, bytes a row); `inverse_transform` decodes.

    Parameters
    ----------
    spec : str
        Of a codec whose rows have a fixed size: "int:8", "klt,grouped:48", "pq:48x8"... (no entropy coder).

    Attributes
    ----------
    codec_ : Codec
        Fitted.
    n_features_in_, n_bytes_ : int
        Columns that go in, bytes that come out.

    Before an estimator that wants numbers, ``decode=True`` gives x_hat instead: it then learns from what storage will give it.
    """

    def __init__(self, spec: str = "int:8", decode: bool = False):
        self.spec = spec
        self.decode = decode

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"] if self.decode else []
        return tags

    def fit(self, X, y=None):
        """Learn the codec from X (n, d) float."""
        X = validate_data(self, X, dtype=(np.float32, np.float64))
        codec = Codec(self.spec).fit(X)
        self._rows = RowFormat(codec, (X.shape[1],), str(X.dtype))
        self.codec_, self.n_bytes_ = codec, self._rows.nbytes
        return self

    def transform(self, X):
        """X (n, d) → uint8 (n, n_bytes_), or x_hat (n, d) if ``decode``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float32, np.float64), reset=False).astype(self._rows.dtype, copy=False)
        codes = self.codec_.encode(X)
        return self.codec_.decode(codes) if self.decode else self._rows.pack(codes)

    def inverse_transform(self, X):
        """uint8 (n, n_bytes_) → x_hat (n, d); if ``decode``, X as it is. Raises `InputError` for another dtype."""
        check_is_fitted(self)
        X = check_array(X, dtype=None, ensure_min_samples=0)
        if self.decode:
            return X
        if X.dtype != np.uint8:
            raise InputError(f"codes are uint8, not {X.dtype}")
        return self.codec_.decode(self._rows.unpack(np.ascontiguousarray(X)))

    def get_feature_names_out(self, input_features=None):
        """byte0, byte1, ...; if ``decode``, the names of the columns that went in."""
        check_is_fitted(self)
        if self.decode:
            from sklearn.utils.validation import _check_feature_names_in

            return _check_feature_names_in(self, input_features)
        return np.array([f"byte{i}" for i in range(self.n_bytes_)], dtype=object)
