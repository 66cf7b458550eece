// Which instructions a kernel may use, decided at run time.
#pragma once

namespace compand {

// avx512 means the Ice Lake / Zen 4 class: F BW VL DQ CD VBMI VBMI2 VNNI BITALG VPOPCNTDQ. avx2 includes FMA, BMI2, F16C.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2 };

Isa isa();                         // best level of this machine, lowered by COMPAND_ISA or set_isa
bool set_isa(const char *name);    // "scalar" | "avx2" | "avx512" | "auto"; false: unknown or not available
const char *isa_name(Isa level);

bool bf16();                // whether kernels may use VDPBF16PS, which not all of the avx512 class have
void set_bf16(bool use);    // for tests: as if it was not there; true has no effect on a processor without it

}  // namespace compand

// Calls avx512::f, avx2::f or scalar::f. Each kernel declares f in the three namespaces of its own namespace.
#if COMPAND_X86
#define COMPAND_DISPATCH(f, ...)                                             \
    (::compand::isa() == ::compand::Isa::avx512 ? avx512::f(__VA_ARGS__)     \
     : ::compand::isa() == ::compand::Isa::avx2 ? avx2::f(__VA_ARGS__)       \
                                                : scalar::f(__VA_ARGS__))
#else
#define COMPAND_DISPATCH(f, ...) scalar::f(__VA_ARGS__)
#endif
