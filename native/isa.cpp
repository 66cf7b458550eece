#include "isa.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace compand {
namespace {

Isa detect() {
#if COMPAND_X86 && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
                            __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bitalg") &&
                            __builtin_cpu_supports("avx512vpopcntdq");
    if (has_avx512) return Isa::avx512;
    if (has_avx2) return Isa::avx2;
#endif
    return Isa::scalar;
}

Isa best() {
    static const Isa level = detect();
    return level;
}

std::atomic<int> chosen{-1};

bool detect_bf16() {
#if COMPAND_X86 && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

std::atomic<bool> brains{detect_bf16()};

}  // namespace

const char *isa_name(Isa level) {
    return level == Isa::avx512 ? "avx512" : level == Isa::avx2 ? "avx2" : "scalar";
}

bool set_isa(const char *name) {
    if (std::strcmp(name, "auto") == 0) {
        const char *asked = std::getenv("COMPAND_ISA");
        if (asked && std::strcmp(asked, "auto") != 0 && set_isa(asked)) return true;
        chosen.store(static_cast<int>(best()), std::memory_order_relaxed);
        return true;
    }
    Isa level;
    if (std::strcmp(name, "scalar") == 0) level = Isa::scalar;
    else if (std::strcmp(name, "avx2") == 0) level = Isa::avx2;
    else if (std::strcmp(name, "avx512") == 0) level = Isa::avx512;
    else return false;
    if (level > best()) return false;
    chosen.store(static_cast<int>(level), std::memory_order_relaxed);
    return true;
}

Isa isa() {
    int level = chosen.load(std::memory_order_relaxed);
    if (level < 0) {
        set_isa("auto");
        level = chosen.load(std::memory_order_relaxed);
    }
    return static_cast<Isa>(level);
}

bool bf16() { return brains.load(std::memory_order_relaxed); }
void set_bf16(bool use) { brains.store(use && detect_bf16(), std::memory_order_relaxed); }

}  // namespace compand
