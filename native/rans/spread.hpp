// An order of symbols in which no 16 neighbouring slots, from a multiple of 16 on, hold more than one change of symbol. Then a slot's
// symbol follows from two tables of 256 bytes, which fit registers, instead of one of 4,096 entries in memory.
#pragma once
#include "model.hpp"
#include "rans.hpp"

namespace compand::rans {

// Symbols in that order, by integers alone so that every reader finds the same; empty if this rule finds none:
// at slot o of 16, the symbol of smallest f with 16 - o <= f < 16 (any f if o = 0); where there is none, the one of f >= 16 whose end is at
// 0, else where the rarest symbol left would fit, else as far as possible. Equal ones in order of their ids.
std::vector<uint8_t> spread_out(const Frequencies &f);

void fill_spread(const Frequencies &f, const std::vector<uint8_t> &order, Spread &model);  // and model.table, of 4,096 entries

}  // namespace compand::rans
