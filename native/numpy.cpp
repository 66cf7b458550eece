#include "numpy.hpp"

#define NPY_NO_DEPRECATED_API NPY_1_25_API_VERSION
#define NPY_TARGET_VERSION NPY_1_25_API_VERSION
#include <numpy/ndarrayobject.h>

namespace compand::numpy {
namespace {

constexpr int type_of(Kind kind) {
    constexpr int types[] = {NPY_NOTYPE, NPY_BOOL,  NPY_INT8,   NPY_UINT8, NPY_INT16,  NPY_UINT16,
                             NPY_INT32,  NPY_UINT32, NPY_INT64, NPY_UINT64, NPY_FLOAT32, NPY_FLOAT64};
    return types[static_cast<size_t>(kind)];
}

}  // namespace

void load() {
    if (_import_array() < 0) throw nanobind::python_error();
}

const void *look(PyObject *object, Kind kind, int rank, size_t *shape) noexcept {
    if (!PyArray_CheckExact(object)) return nullptr;
    auto *array = reinterpret_cast<PyArrayObject *>(object);
    if (PyArray_NDIM(array) != rank || PyArray_TYPE(array) != type_of(kind) || !PyArray_ISCARRAY_RO(array)) return nullptr;
    for (int i = 0; i < rank; ++i) shape[i] = static_cast<size_t>(PyArray_DIM(array, i));
    return PyArray_DATA(array);
}

nanobind::object empty(Kind kind, int rank, const size_t *shape, void *&values) {
    npy_intp lengths[4];
    for (int i = 0; i < rank; ++i) lengths[i] = static_cast<npy_intp>(shape[i]);
    PyObject *made = PyArray_SimpleNew(rank, lengths, type_of(kind));
    if (!made) throw nanobind::python_error();
    values = PyArray_DATA(reinterpret_cast<PyArrayObject *>(made));
    return nanobind::steal(made);
}

}  // namespace compand::numpy
