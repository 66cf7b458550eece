// The index of a file in the form compand writes: found valid and cut into pieces without being parsed.
//
// scan() accepts a part of JSON that needs no judgement: no spaces between tokens, ASCII strings without escapes, integers of at
// most 15 digits, fractions without exponents, at most `kDepth` deep, at most `kContainers` objects and arrays, no key twice
// in an object. Everything else, be it valid JSON or not, is refused, and the slow reader in Python decides and names the fault.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace compand::json {

inline constexpr int kDepth = 6;
inline constexpr size_t kContainers = size_t{1} << 18;

struct Span {
    size_t begin, end;  // bytes of the text
};
struct Field {
    Span key, value;  // key without its quotes
};
struct Index {
    std::vector<Field> fields;   // of the outermost object
    std::vector<Field> entries;  // of its field "entries", if that is an object
    bool listed = false;         // its field "entries" is an object
    bool table = false;          // its field "chunks" is {"bytes":[integers],"xxh3":"..."}
    std::vector<uint64_t> sizes;
    Span sums{};
};

bool scan(const char *text, size_t size, Index &index);

}  // namespace compand::json
