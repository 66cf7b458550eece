// One small pool for every kernel. Results must not depend on the number of threads: split work by fixed sizes.
#pragma once
#include <cstddef>
#include <functional>

namespace compand {

int threads();            // COMPAND_THREADS, else the CPUs this process may use
void set_threads(int n);  // 0: back to the default, which is then found out anew

// Runs body here; its calls of parallel_for find the other threads awake, so that loops of microseconds pay. The threads wait by
// spinning until body ends: for a chain of loops of milliseconds in all. Within itself or parallel_for, and on one thread, it is body().
void together(const std::function<void()> &body);

// Calls body(i) for i in [0, n) on up to threads() threads, in any order; returns when all are done. body must not throw.
// worth: false where all of it is so little that this thread does it alone: on busy CPUs, waiting for another takes milliseconds.
void parallel_for(size_t n, const std::function<void(size_t)> &body, bool worth = true);

}  // namespace compand
