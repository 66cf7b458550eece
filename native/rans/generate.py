"""Writes curves.inc: the integer tables behind parametric models and logistic mixing. Run by hand; the result is checked in.

    python native/rans/generate.py > native/rans/curves.inc

Values are rounded from double precision with a relative error far below half a unit, so any correct libm gives the same
file; a test holds its checksum. Changing a number here changes streams: raise kCurvesVersion with it.
"""

import math

STEP = 128  # table entries for one unit of z
TAILS = {  # upper tail 1 - F(z) for z >= 0, times 2^32
    "gaussian": (8, lambda z: 0.5 * math.erfc(z / math.sqrt(2))),
    "laplace": (16, lambda z: 0.5 * math.exp(-z)),
    "logistic": (16, lambda z: 1 / (1 + math.exp(z))),
}


def rows(values):
    values = list(values)
    return ",\n".join(", ".join(map(str, values[i:i + 12])) for i in range(0, len(values), 12))


print("// Made by native/rans/generate.py; do not edit.")
print("constexpr int kCurvesVersion = 1;")
for name, (most, tail) in TAILS.items():
    print(f"constexpr uint32_t k_{name}[] = {{")
    print(rows(round(tail(i / STEP) * 2**32) for i in range(most * STEP + 1)) + "};")
print("// 2^32 / scale of scale index 0..44, scale = 2^((index - 20) / 6)")
print("constexpr uint64_t k_inverse_scale[] = {")
print(rows(round(2 ** (32 - (i - 20) / 6)) for i in range(45)) + "};")
print("// 65536 / (1 + exp(-x / 256)) for x = -2048..2047, kept in 16..65520")
print("constexpr uint16_t k_squash[] = {")
print(rows(min(65520, max(16, round(65536 / (1 + math.exp(-x / 256))))) for x in range(-2048, 2048)) + "};")
