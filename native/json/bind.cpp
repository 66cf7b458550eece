#include <string_view>

#include "arrays.hpp"
#include "json/json.hpp"

namespace nb = nanobind;

namespace compand::json {
namespace {

// Letters, digits, _ - . / and spaces; the first two no slash or space; no "..": a name that needs no closer look.
bool plain(std::string_view name) {
    if (name.size() < 2 || name.size() > 1000 || name.find("..") != name.npos) return false;
    for (size_t i = 0; i < name.size(); ++i) {
        const char c = name[i];
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
        if (!letter && (i < 2 || (c != '/' && c != ' '))) return false;
    }
    return true;
}

nb::object split(Input<uint8_t, 1> data) {
    const char *text = reinterpret_cast<const char *>(data.data());
    Index index;
    bool found;
    {
        nb::gil_scoped_release release;
        found = scan(text, data.size(), index);
    }
    if (!found) return nb::none();
    const auto key = [&](const Field &field) { return nb::str(text + field.key.begin, field.key.end - field.key.begin); };
    nb::dict fields;
    for (const Field &field : index.fields) fields[key(field)] = nb::make_tuple(field.value.begin, field.value.end);
    nb::object entries = nb::none(), sizes = nb::none(), sums = nb::none();
    bool all_plain = true;
    if (index.listed) {
        nb::dict records;
        for (const Field &field : index.entries) {
            records[key(field)] = static_cast<uint64_t>(field.value.begin) << 32 | static_cast<uint64_t>(field.value.end);
            all_plain = all_plain && plain({text + field.key.begin, field.key.end - field.key.begin});
        }
        entries = records;
    }
    if (index.table) {
        nb::list list;
        for (const uint64_t size : index.sizes) list.append(size);
        sizes = list;
        sums = nb::str(text + index.sums.begin, index.sums.end - index.sums.begin);
    }
    return nb::make_tuple(fields, entries, all_plain, sizes, sums);
}

nb::list ends(nb::list sizes, uint64_t start, uint64_t small, uint64_t large, uint64_t from) {
    nb::list found;
    uint64_t end = start;
    found.append(end);
    for (nb::handle item : sizes) {
        const uint64_t size = nb::cast<uint64_t>(item), to = size >= from ? large : small;
        end = (end + to - 1) / to * to + size;
        found.append(end);
    }
    return found;
}

}  // namespace
}  // namespace compand::json

void bind_json(nb::module_ &m) {
    using namespace nb::literals;
    m.def("json_split", &compand::json::split, "text"_a.noconvert(),
          "The JSON text (uint8) of an index as compand writes it, cut but not parsed: the fields of the outermost object (name ->\n"
          "begin, end), those of its \"entries\" (name -> begin << 32 | end) or None, whether all their names are plain, and sizes\n"
          "and checksums of \"chunks\" or None twice. None for any other text, valid or not. Texts are below 4 GiB.");
    m.def("chunk_ends", &compand::json::ends, "sizes"_a, "start"_a, "small"_a, "large"_a, "from_"_a,
          "Where chunks of these sizes end that begin at multiples of ``large`` if they have ``from_`` bytes or more, else of ``small``.\n"
          "Sizes must be below 2**53, and no more than 2**23.");
}
