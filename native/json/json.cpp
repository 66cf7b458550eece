#include "json/json.hpp"

#include <cstring>
#include <string_view>

namespace compand::json {
namespace {

uint64_t hash(const char *text, size_t size) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; ++i) h = (h ^ static_cast<uint8_t>(text[i])) * 0x100000001b3u;
    return h ^ (h >> 29);
}

class Scanner {
public:
    Scanner(const char *text, size_t size, Index &index) : text_(text), size_(size), index_(index) {}

    bool whole() {
        if (!object(1, index_.fields)) return false;
        for (const Field &field : index_.fields)
            if (is(field.key, "chunks")) index_.table = table(field.value);
        return at_ == size_;
    }

private:
    bool is(Span span, std::string_view word) const {
        return span.end - span.begin == word.size() && std::memcmp(text_ + span.begin, word.data(), word.size()) == 0;
    }
    bool take(char c) { return at_ < size_ && text_[at_] == c ? (++at_, true) : false; }

    bool string(Span &inside) {
        if (!take('"')) return false;
        inside.begin = at_;
        for (; at_ < size_; ++at_) {
            const auto c = static_cast<unsigned char>(text_[at_]);
            if (c == '"') {
                inside.end = at_++;
                return true;
            }
            if (c < 0x20 || c >= 0x7f || c == '\\') return false;
        }
        return false;
    }

    bool number() {
        take('-');
        const size_t first = at_;
        while (at_ < size_ && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
        const size_t digits = at_ - first;
        if (digits == 0 || digits > 15 || (digits > 1 && text_[first] == '0')) return false;
        if (take('.')) {
            const size_t fraction = at_;
            while (at_ < size_ && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
            if (at_ == fraction) return false;
        }
        return at_ == size_ || (text_[at_] != 'e' && text_[at_] != 'E');
    }

    bool word(std::string_view expected) {
        if (size_ - at_ < expected.size() || std::memcmp(text_ + at_, expected.data(), expected.size()) != 0) return false;
        at_ += expected.size();
        return true;
    }

    bool value(int depth) {
        if (at_ >= size_) return false;
        Span ignored;
        switch (text_[at_]) {
            case '{': {
                std::vector<Field> fields;
                return object(depth, fields);
            }
            case '[': return list(depth);
            case '"': return string(ignored);
            case 't': return word("true");
            case 'f': return word("false");
            case 'n': return word("null");
            default: return number();
        }
    }

    bool open(int depth) { return depth <= kDepth && ++containers_ <= kContainers; }

    bool list(int depth) {
        if (!take('[') || !open(depth)) return false;
        if (take(']')) return true;
        do {
            if (!value(depth + 1)) return false;
        } while (take(','));
        return take(']');
    }

    bool object(int depth, std::vector<Field> &fields) {
        if (!take('{') || !open(depth)) return false;
        if (take('}')) return true;
        do {
            Field field;
            if (!string(field.key) || !take(':')) return false;
            field.value.begin = at_;
            if (depth == 1 && is(field.key, "entries") && at_ < size_ && text_[at_] == '{') {
                if (index_.listed || !object(2, index_.entries)) return false;
                index_.listed = true;
            } else if (!value(depth + 1)) {
                return false;
            }
            field.value.end = at_;
            fields.push_back(field);
        } while (take(','));
        return take('}') && distinct(fields);
    }

    bool equal(Span a, Span b) const {
        return a.end - a.begin == b.end - b.begin && std::memcmp(text_ + a.begin, text_ + b.begin, a.end - a.begin) == 0;
    }

    // Whether no key is there twice; false too if keys were made to collide.
    bool distinct(const std::vector<Field> &fields) {
        if (fields.size() <= 8) {
            for (size_t i = 1; i < fields.size(); ++i)
                for (size_t j = 0; j < i; ++j)
                    if (equal(fields[i].key, fields[j].key)) return false;
            return true;
        }
        size_t room = 16;
        while (room < 2 * fields.size()) room *= 2;
        seen_.assign(room, 0);
        size_t steps = 0;
        for (size_t i = 0; i < fields.size(); ++i) {
            const Span key = fields[i].key;
            size_t slot = hash(text_ + key.begin, key.end - key.begin) & (room - 1);
            for (; seen_[slot]; slot = (slot + 1) & (room - 1)) {
                if (equal(key, fields[seen_[slot] - 1].key) || ++steps > 16 * fields.size()) return false;
            }
            seen_[slot] = i + 1;
        }
        return true;
    }

    // {"bytes":[1,2],"xxh3":"..."}, found valid before
    bool table(Span span) {
        const size_t end = at_;
        at_ = span.begin;
        bool ok = word("{\"bytes\":[");
        if (ok && !take(']')) {
            do {
                uint64_t size = 0;
                const size_t first = at_;
                for (; at_ < span.end && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) size = 10 * size + static_cast<uint64_t>(text_[at_] - '0');
                ok = at_ > first;
                index_.sizes.push_back(size);
            } while (ok && take(','));
            ok = ok && take(']');
        }
        ok = ok && word(",\"xxh3\":") && string(index_.sums) && take('}') && at_ == span.end;
        at_ = end;
        return ok;
    }

    const char *text_;
    size_t size_, at_ = 0, containers_ = 0;
    Index &index_;
    std::vector<size_t> seen_;
};

}  // namespace

bool scan(const char *text, size_t size, Index &index) { return Scanner(text, size, index).whole(); }

}  // namespace compand::json
