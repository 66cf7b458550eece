#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace compand {
namespace {

int default_threads() {
    if (const char *asked = std::getenv("COMPAND_THREADS")) {
        const int n = std::atoi(asked);
        if (n > 0) return std::min(n, 256);
    }
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, std::min(CPU_COUNT(&set), 256));
#endif
    return std::max(1, std::min<int>(static_cast<int>(std::thread::hardware_concurrency()), 256));
}

std::atomic<int> wanted{0};

struct Job {
    const std::function<void(size_t)> *body;
    size_t n;
    std::atomic<size_t> next{0};
    std::atomic<size_t> done{0};

    void work() {
        for (size_t i; (i = next.fetch_add(1)) < n;) {
            (*body)(i);
            done.fetch_add(1, std::memory_order_release);
        }
    }
};

// Workers spin briefly for the next job before they sleep, so that back-to-back small jobs start in about a microsecond.
class Pool {
public:
    void run(size_t n, int width, const std::function<void(size_t)> &body) {
        std::lock_guard<std::mutex> one_job_at_a_time(entry_);
        auto job = std::make_shared<Job>();
        job->body = &body;
        job->n = n;
        while (static_cast<int>(workers_) + 1 < width) {
            std::thread([this] { serve(); }).detach();
            ++workers_;
        }
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = job;
            helpers_ = width - 1;
            ticket_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        job->work();
        while (job->done.load(std::memory_order_acquire) < n) std::this_thread::yield();
        std::lock_guard<std::mutex> lock(mutex_);
        job_.reset();
    }

private:
    void serve() {
        size_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < 2000 && ticket_.load(std::memory_order_acquire) == seen; ++spin) {
#if COMPAND_X86
                __builtin_ia32_pause();
#endif
            }
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return ticket_.load(std::memory_order_relaxed) != seen; });
                seen = ticket_.load(std::memory_order_relaxed);
                if (helpers_ > 0) {
                    --helpers_;
                    job = job_;
                }
            }
            if (job) job->work();
        }
    }

    std::mutex entry_, mutex_;
    std::condition_variable wake_;
    std::shared_ptr<Job> job_;
    std::atomic<size_t> ticket_{0};
    size_t workers_ = 0;
    int helpers_ = 0;
};

// Never destroyed (workers may still run at exit). After fork() the child has no workers, so it gets a pool of its own.
Pool &pool() {
    static std::mutex mutex;
    static Pool *current = nullptr;
    static long owner = 0;
    std::lock_guard<std::mutex> lock(mutex);
#if defined(_WIN32)
    const long self = 1;
#else
    const long self = static_cast<long>(getpid());
#endif
    if (owner != self) {
        current = new Pool;
        owner = self;
    }
    return *current;
}

thread_local bool inside = false;

}  // namespace

int threads() {
    const int n = wanted.load(std::memory_order_relaxed);
    return n > 0 ? n : default_threads();
}

void set_threads(int n) { wanted.store(std::clamp(n, 0, 256), std::memory_order_relaxed); }

void parallel_for(size_t n, const std::function<void(size_t)> &body) {
    const int width = static_cast<int>(std::min<size_t>(static_cast<size_t>(threads()), n));
    if (width <= 1 || inside) {
        for (size_t i = 0; i < n; ++i) body(i);
        return;
    }
    const std::function<void(size_t)> marked = [&body](size_t i) {
        inside = true;
        body(i);
        inside = false;
    };
    pool().run(n, width, marked);
}

}  // namespace compand
