// Threads of another library instead of the own pool.
#pragma once

namespace compand {

// Works on the threads of a GNU OpenMP library that this process has loaded, so that two pools do not wait for each other's CPUs: those of
// OpenMP spin for milliseconds after each of its loops. False, and the own pool, if there is none of this name; null: the own pool.
bool borrow_threads(const char *library);

}  // namespace compand
