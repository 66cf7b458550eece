// Body of scan.hpp. LEVEL 2: AVX-512 with VBMI and VNNI; 1: AVX2; 0: plain C++. All give the same hits.
#include "scan/encode_impl.hpp"
#include "scan/rows_impl.hpp"
#include "scan/tables_impl.hpp"
#include "scan/turn_impl.hpp"
#if LEVEL == 2
#include "scan/bytes_impl.hpp"
#endif

namespace compand::scan::ISA {
#if LEVEL == 2
namespace {

template <size_t Q> void scan_bits(const Store &store, size_t first, size_t last, const Query *queries, size_t groups) {
    if (store.bits == 4) scan4<Q>(store, first, last, queries, groups);
    if (store.bits == 6) scan_words<6, Q>(store, first, last, queries, groups);
    if (store.bits == 8 && store.coded) scan_words<8, Q>(store, first, last, queries, groups);
    if (!store.coded) scan8<Q>(store, first, last, queries, groups);
}

}  // namespace
#endif

void scan(const Store &store, size_t first, size_t last, Query *queries, size_t count, size_t groups) {
    if (store.bounds) for (size_t q = 0; q < count; ++q) set_cut(queries[q]);
#if LEVEL == 2
    if (store.bounds) return scan8_bounded(store, first, last, queries, count, groups);
#endif
    for (size_t q = 0; q < count; q += kQueries) {
        const size_t some = std::min(kQueries, count - q);
#if LEVEL == 2
        if (some == 1) scan_bits<1>(store, first, last, queries + q, groups);
        if (some == 2) scan_bits<2>(store, first, last, queries + q, groups);
        if (some == 3) scan_bits<3>(store, first, last, queries + q, groups);
        if (some == 4) scan_bits<4>(store, first, last, queries + q, groups);
#else
        scan_blocks(store, first, last, queries + q, some, groups);
#endif
    }
}

}  // namespace compand::scan::ISA
