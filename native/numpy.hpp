// The two things that NumPy's own interface does in a tenth of the time of the general ways: to look at one of its arrays, and to make
// a small one. A call whose kernel takes a microsecond would otherwise spend a third of it there.
#pragma once
#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace compand::numpy {

enum class Kind { other, boolean, i8, u8, i16, u16, i32, u32, i64, u64, f32, f64 };

template <class T> constexpr Kind kind_of() {
    if constexpr (std::is_same_v<T, bool>) return Kind::boolean;
    else if constexpr (std::is_same_v<T, float>) return Kind::f32;
    else if constexpr (std::is_same_v<T, double>) return Kind::f64;
    else if constexpr (!std::is_integral_v<T>) return Kind::other;
    else {
        constexpr Kind whole[2][4] = {{Kind::u8, Kind::u16, Kind::u32, Kind::u64}, {Kind::i8, Kind::i16, Kind::i32, Kind::i64}};
        return whole[std::is_signed_v<T>][sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3];
    }
}

void load();  // once, before the others; throws what importing NumPy raises

// The values of a NumPy array of this kind and rank that is C-contiguous, aligned and in this machine's byte order, and its shape; null for
// any other object, those that are arrays by another protocol among them.
const void *look(PyObject *object, Kind kind, int rank, size_t *shape) noexcept;

// A new array of up to four axes, uninitialised, and its values.
nanobind::object empty(Kind kind, int rank, const size_t *shape, void *&values);

}  // namespace compand::numpy
