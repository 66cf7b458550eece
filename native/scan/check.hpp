// What a table of codes must be before a kernel looks at it: for the bindings of flat scans and of lists.
#pragma once
#include <nanobind/nanobind.h>

#include "arrays.hpp"
#include "scan/index.hpp"

namespace compand::scan {

// Ids are of codewords where codebooks are given.
inline bool is_coded(unsigned bits, const Input<int32_t, 1> &sizes) { return bits != 8 || sizes.shape(0); }

inline void check_codes(const Input<uint8_t, 2> &rows, size_t groups, unsigned bits, const Input<float, 1> &gain, const Input<float, 1> &term,
                        const Input<float, 1> &codebooks, const Input<int32_t, 1> &sizes) {
    namespace nb = nanobind;
    const size_t n = rows.shape(0);
    const bool coded = is_coded(bits, sizes);
    if (bits != 4 && bits != 6 && bits != 8) throw nb::value_error("bits must be 4, 6 or 8");
    if (groups < 1 || groups > kMaxGroups) throw nb::value_error("groups must be from 1 to 4096");
    if (rows.shape(1) != (groups * bits + 7) / 8) throw nb::value_error("a row must have ceil(groups * bits / 8) bytes");
    if (n >= size_t{1} << 32) throw nb::value_error("at most 2^32 - 1 vectors");
    if (gain.shape(0) != n || (term.shape(0) != n && term.shape(0) != 0)) throw nb::value_error("gain and term must have one value a row");
    if (coded) {
        if (sizes.shape(0) != groups) throw nb::value_error("sizes must have one value a group");
        size_t total = 0;
        for (size_t g = 0; g < groups; ++g) {
            if (sizes.data()[g] < 0 || sizes.data()[g] > 1 << 20) throw nb::value_error("a group's size is out of range");
            total += static_cast<size_t>(sizes.data()[g]) << bits;
        }
        if (codebooks.shape(0) != total) throw nb::value_error("codebooks must have 2^bits values for each coordinate");
    }
}

}  // namespace compand::scan
