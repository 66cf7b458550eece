// Frequencies from counts, their compact form in a stream, and lookup tables from them.
#pragma once
#include "bits.hpp"

namespace compand::rans {

using Counts = std::vector<uint64_t>;
using Frequencies = std::vector<uint32_t>;

// Frequencies that sum to 2^p, at least 1 where counts are not zero, close to the best for sum(-count log2 f).
Frequencies normalise(const Counts &counts, int p);

double coded_bits(const Counts &counts, const Frequencies &f, int p);
double entropy_bits(const Counts &counts);  // sum(-count log2(count / n))

// Size of each frequency as the change from the one before, then its bits below the leading one; adaptive binary coding.
class FrequencyWriter {
public:
    explicit FrequencyWriter(Bytes &out) : bits_(out) {}
    void put(const Frequencies &f);
    void finish() { bits_.finish(); }

private:
    friend class FrequencyReader;
    struct Models {
        Bit same[3], up[3], more[2][18], top[18];
    } models_;
    BitWriter bits_;
};

class FrequencyReader {
public:
    FrequencyReader(const uint8_t *data, size_t size) : bits_(data, size) {}
    bool get(Frequencies &f, int p);  // f.size() frequencies; false unless they sum to 2^p
    bool finish() const { return bits_.ended() && !bits_.starved(); }

private:
    FrequencyWriter::Models models_;
    BitReader bits_;
};

void fill_table(const Frequencies &f, uint32_t *table);  // p = kNarrowBits, every f < 4096, symbols below 256

// Bytes whose length is stored before them.
void put_sized(Bytes &out, const Bytes &part);
inline const uint8_t *take_sized(Reader &in, size_t &size) {
    const uint64_t n = in.varint();
    if (!in.ok() || n > in.left()) return in.take(SIZE_MAX);
    size = static_cast<size_t>(n);
    return in.take(size);
}

}  // namespace compand::rans
