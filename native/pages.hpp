// Memory for what kernels read from end to end, on huge pages where the system has them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace compand {

class Pages {
public:
    Pages() = default;
    explicit Pages(size_t bytes) : size_(bytes) {  // zeros
#if defined(__linux__)
        constexpr size_t huge = size_t{1} << 21;
        if (bytes >= huge / 2 && bytes < SIZE_MAX / 2) {  // not of malloc's memory: pages once touched stay as small as they are
            size_ = (bytes + 4095) / 4096 * 4096;
            if (const size_t over = huge - 1 - (bytes + huge - 1) % huge; over <= bytes / 8) size_ = bytes + over;  // the last page too
            char *at = static_cast<char *>(mmap(nullptr, size_ + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            if (at == MAP_FAILED) throw std::bad_alloc();
            const size_t before = (huge - reinterpret_cast<uintptr_t>(at) % huge) % huge;
            if (before) munmap(at, before);
            data_ = reinterpret_cast<uint8_t *>(at + before);
            munmap(data_ + size_, huge - before);
            madvise(data_, size_, MADV_HUGEPAGE);
            mapped_ = true;
            return;
        }
#endif
        data_ = new (std::align_val_t{64}) uint8_t[size_ + 64]();
    }
    Pages(Pages &&other) noexcept { swap(other); }
    Pages &operator=(Pages &&other) noexcept {
        swap(other);
        return *this;
    }
    ~Pages() {
#if defined(__linux__)
        if (mapped_) {
            munmap(data_, size_);
            return;
        }
#endif
        ::operator delete[](data_, std::align_val_t{64});
    }
    uint8_t *data() const { return data_; }

private:
    void swap(Pages &other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(mapped_, other.mapped_);
    }
    uint8_t *data_ = nullptr;
    size_t size_ = 0;
    bool mapped_ = false;
};

}  // namespace compand
