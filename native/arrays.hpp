// NumPy arrays at the border between Python and the kernels.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "checked.hpp"
#include "numpy.hpp"

namespace compand {

// A C-contiguous array of T in this machine's memory, which the caller's object keeps; read only. Any object that nanobind takes for one; a copy if
// its values are not aligned.
template <class T, int rank> class Input {
public:
    using Any = nanobind::ndarray<const T, nanobind::ndim<rank>, nanobind::c_contig, nanobind::device::cpu>;
    Input() = default;
    explicit Input(Any other) : any_(std::move(other)), data_(any_.data()) {
        for (int i = 0; i < rank; ++i) shape_[i] = any_.shape(static_cast<size_t>(i));
        if (reinterpret_cast<uintptr_t>(data_) % alignof(T) == 0) return;
        void *copy;  // kernels read values where they are aligned
        array_ = numpy::empty(numpy::kind_of<T>(), rank, shape_, copy);
        std::memcpy(copy, data_, size() * sizeof(T));
        data_ = static_cast<const T *>(copy);
    }
    bool look(nanobind::handle object) noexcept {  // false: not NumPy's
        const void *seen = numpy::look(object.ptr(), numpy::kind_of<T>(), rank, shape_);
        if (!seen) return false;
        data_ = static_cast<const T *>(seen);
        array_ = nanobind::borrow(object);
        return true;
    }
    const T *data() const { return data_; }
    size_t shape(size_t i) const { return shape_[i]; }
    size_t size() const {
        size_t product = 1;
        for (size_t length : shape_) product *= length;
        return product;
    }

private:
    nanobind::object array_;
    Any any_;
    const T *data_ = nullptr;
    size_t shape_[rank] = {};
};
template <class T> using Output = nanobind::ndarray<nanobind::numpy, T>;

// An array that owns the bytes of a vector.
inline Output<uint8_t> owned(std::vector<uint8_t> &&bytes) {
    auto *kept = new std::vector<uint8_t>(std::move(bytes));
    nanobind::capsule owner(kept, [](void *p) noexcept { delete static_cast<std::vector<uint8_t> *>(p); });
    return Output<uint8_t>(kept->data(), {kept->size()}, owner);
}

// An uninitialised C-contiguous array of T that a kernel fills before release() hands it to Python.
template <class T> class Fresh {
public:
    explicit Fresh(std::initializer_list<size_t> shape) : rank_(shape.size()) {
        size_t i = 0, bytes = 0;
        for (size_t length : shape) {
            shape_[i++] = length;
            if (!checked_mul(size_, length, size_)) throw nanobind::value_error("the result would not fit in memory");
        }
        if (!checked_mul(size_, sizeof(T), bytes)) throw nanobind::value_error("the result would not fit in memory");
        data_.reset(static_cast<T *>(::operator new(bytes ? bytes : 1, alignment)));
#if defined(__linux__)
        if (bytes >= size_t{1} << 22) {  // huge pages: first touch is otherwise slower than the kernels
            const size_t skip = 4096 - reinterpret_cast<uintptr_t>(data_.get()) % 4096;
            madvise(reinterpret_cast<char *>(data_.get()) + skip, bytes - skip, MADV_HUGEPAGE);
        }
#endif
    }
    T *data() { return data_.get(); }
    size_t size() const { return size_; }
    Output<T> release() {
        T *data = data_.release();
        nanobind::capsule owner(data, [](void *p) noexcept { ::operator delete(p, alignment); });
        return Output<T>(data, rank_, shape_, owner);
    }

private:
    static constexpr std::align_val_t alignment{64};
    struct Free {
        void operator()(T *data) const { ::operator delete(data, alignment); }
    };
    size_t shape_[4] = {};
    size_t rank_;
    size_t size_ = 1;
    std::unique_ptr<T, Free> data_;
};

}  // namespace compand

namespace nanobind::detail {
template <class T, int rank> struct type_caster<compand::Input<T, rank>> {
    using Input = compand::Input<T, rank>;
    using Other = make_caster<typename Input::Any>;
    NB_TYPE_CASTER(Input, Other::Name)
    bool from_python(handle source, uint8_t flags, cleanup_list *cleanup) noexcept {
        if (value.look(source)) return true;
        Other other;
        if (!other.from_python(source, flags, cleanup) || !other.value.is_valid()) return false;
        try {
            value = Input(std::move(other.value));
        } catch (const python_error &) {  // no memory for a copy
            return false;
        }
        return true;
    }
};
}  // namespace nanobind::detail
