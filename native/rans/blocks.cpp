#include "blocks.hpp"

#include "rans.hpp"

namespace compand::rans {

namespace {

constexpr size_t kSpares = 8, kLargest = size_t{1} << 21;
thread_local std::vector<Bytes> spares;

}  // namespace

Coded::Coded(size_t count) : std::vector<Bytes>(count) {
    for (Bytes &b : *this) {
        if (spares.empty()) break;
        b = std::move(spares.back());
        spares.pop_back();
    }
}

Coded::~Coded() {
    for (Bytes &b : *this) {
        if (spares.size() == kSpares || b.capacity() > kLargest) continue;
        b.clear();
        spares.push_back(std::move(b));
    }
}

void put_blocks(Bytes &out, size_t block, const std::vector<Bytes> &coded, const std::vector<Bytes> *escapes) {
    put_varint(out, block);
    size_t total = out.size();
    for (size_t b = 0; b < coded.size(); ++b) {
        put_varint(out, coded[b].size());
        if (escapes) put_varint(out, (*escapes)[b].size());
        total += coded[b].size() + 16;
    }
    out.reserve(total);
    for (const Bytes &c : coded) out.insert(out.end(), c.begin(), c.end());
}

bool take_blocks(Reader &in, size_t n, bool escaped, size_t &block, std::vector<Block> &blocks, size_t each) {
    const uint64_t stored = in.varint();
    if (!in.ok() || stored == 0) return false;
    block = static_cast<size_t>(std::min<uint64_t>(stored, n));
    if (block < n && block % kLanes) return false;
    const size_t count = (n - 1) / block + 1;
    if (count > in.left()) return false;
    blocks.resize(count);
    size_t escapes = 0;
    for (Block &b : blocks) {
        const uint64_t size = in.varint(), own = escaped ? in.varint() : 0;
        if (!in.ok() || size > in.left() || own / each > block) return false;
        b.size = static_cast<size_t>(size);
        b.escape_from = escapes;
        b.escapes = static_cast<size_t>(own);
        escapes += b.escapes;
    }
    for (Block &b : blocks) {
        b.data = in.take(b.size);
        if (!b.data) return false;
    }
    return in.left() == 0;
}

size_t block_symbols(size_t n, double bits) {
    const size_t by_size = static_cast<size_t>(bits / (8 * 1600 * 1024)), by_count = (n - 1) >> 24;
    const size_t blocks = std::max(by_size, by_count) + 1;
    return ((n - 1) / blocks / kLanes + 1) * kLanes;
}

}  // namespace compand::rans
