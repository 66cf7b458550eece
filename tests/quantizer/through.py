"""One way through a quantizer, with everything checked that its layout promises."""

from compand.stage import Form


def through(q, x):
    """x encoded (after a fit, if q needs one and has none) and decoded: x_hat and the parts."""
    form = Form(*x.shape, str(x.dtype))
    q = q.fit(x) if q.state(form) and not q.arrays() else q
    parts, layout = q.encode(x), q.layout(form)
    q.require(form)
    assert parts.keys() == layout.keys()
    for name, p in layout.items():
        assert parts[name].shape == p.shape
        if p.k:
            assert parts[name].min() >= 0 and parts[name].max() < p.k
        else:
            assert str(parts[name].dtype) == p.dtype
    return q.decode(parts, form), parts
