// A buffer that starts at a cache line.
#pragma once
#include <cstddef>
#include <memory>
#include <new>

namespace compand::nearest {

template <class T> class Aligned {
public:
    Aligned() = default;
    explicit Aligned(size_t n) : data_(static_cast<T *>(::operator new(n * sizeof(T) + 64, line))) {}
    T *data() const { return data_.get(); }

private:
    static constexpr std::align_val_t line{64};
    struct Free {
        void operator()(T *p) const { ::operator delete(p, line); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace compand::nearest
