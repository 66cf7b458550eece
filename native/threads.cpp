#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "borrow.hpp"
#if defined(__linux__)
#include <dlfcn.h>
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#include <unistd.h>
#endif

namespace compand {
namespace {

long process() {
#if defined(_WIN32)
    return 1;
#else
    return static_cast<long>(getpid());
#endif
}

// Threads of GNU OpenMP: its entry that compiled loops call, and two of its public functions. A child of fork() has none of them.
struct Borrowed {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned) = nullptr;
    int (*number)() = nullptr, (*most)() = nullptr;
    long owner = process();
};
std::atomic<const Borrowed *> borrowed{nullptr};  // never freed: another thread may be at work with it

const Borrowed *lent() {
    const Borrowed *own = borrowed.load(std::memory_order_acquire);
    return own && own->owner == process() ? own : nullptr;
}

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

std::atomic<int> wanted{0}, found{0};  // found: the default, once asked for; the system takes longer to say it than small kernels run

#if !defined(_WIN32)
[[maybe_unused]] const int asks_again_after_fork = pthread_atfork(nullptr, nullptr, [] { found.store(0, std::memory_order_relaxed); });
#endif

void pause() {
#if COMPAND_X86
    __builtin_ia32_pause();
#endif
}

// Each thread works through a range of its own, so that it reads memory in order, and then helps the others with theirs.
struct Job {
    struct alignas(64) Range {
        std::atomic<size_t> next{0};
        size_t end = 0;
    };
    const std::function<void(size_t)> *body;
    std::vector<Range> ranges;
    alignas(64) std::atomic<size_t> done{0};

    Job(size_t n, size_t width, const std::function<void(size_t)> &body) : body(&body), ranges(width) {
        for (size_t k = 0; k < width; ++k) {
            ranges[k].next = n * k / width;
            ranges[k].end = n * (k + 1) / width;
        }
    }
    void work(size_t own) {
        for (size_t k = 0; k < ranges.size(); ++k) {
            Range &range = ranges[(own + k) % ranges.size()];
            for (size_t i; (i = range.next.fetch_add(1)) < range.end;) {
                (*body)(i);
                done.fetch_add(1, std::memory_order_release);
            }
        }
    }
};

// Workers spin briefly for the next job before they sleep, so that back-to-back small jobs start in about a microsecond.
class Pool {
public:
    void run(size_t n, int width, const std::function<void(size_t)> &body) {
        const std::unique_lock<std::mutex> one_job_at_a_time(entry_, std::try_to_lock);
        if (!one_job_at_a_time) {  // another thread of the caller's has the workers: this one does its own work
            for (size_t i = 0; i < n; ++i) body(i);
            return;
        }
        auto job = std::make_shared<Job>(n, static_cast<size_t>(width), body);
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
        job->work(0);
        for (int spin = 0; job->done.load(std::memory_order_acquire) < n; ++spin) {
            if (spin < 200) pause();
            else std::this_thread::yield();
        }
        std::lock_guard<std::mutex> lock(mutex_);
        job_.reset();
    }

private:
    void serve() {
        size_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < 2000 && ticket_.load(std::memory_order_acquire) == seen; ++spin) pause();
            std::shared_ptr<Job> job;
            size_t own = 0;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return ticket_.load(std::memory_order_relaxed) != seen; });
                seen = ticket_.load(std::memory_order_relaxed);
                if (helpers_ > 0) {
                    own = static_cast<size_t>(helpers_--);
                    job = job_;
                }
            }
            if (job) job->work(own);
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
    const long self = process();
    if (owner != self) {
        current = new Pool;
        owner = self;
    }
    return *current;
}

thread_local bool inside = false;

}  // namespace

int threads() {
    int n = wanted.load(std::memory_order_relaxed);
    if (n <= 0)
        if (const Borrowed *own = lent(); own && !std::getenv("COMPAND_THREADS")) return std::clamp(own->most(), 1, 256);
    if (n <= 0) n = found.load(std::memory_order_relaxed);
    if (n <= 0) found.store(n = default_threads(), std::memory_order_relaxed);
    return n;
}

void set_threads(int n) {
    wanted.store(std::clamp(n, 0, 256), std::memory_order_relaxed);
    found.store(0, std::memory_order_relaxed);
}

void parallel_for(size_t n, const std::function<void(size_t)> &body, bool worth) {
    const int width = static_cast<int>(std::min<size_t>(static_cast<size_t>(threads()), n));
    if (width <= 1 || inside || !worth) {
        for (size_t i = 0; i < n; ++i) body(i);
        return;
    }
    const std::function<void(size_t)> marked = [&body](size_t i) {
        inside = true;
        body(i);
        inside = false;
    };
    const Borrowed *own = lent();
    if (!own || own->most() != threads()) return pool().run(n, width, marked);
    // always the whole team: OpenMP ends and starts threads when their number changes
    struct Team {
        Job job;
        int (*number)();
    } team{{n, static_cast<size_t>(width), marked}, own->number};
    const auto work = [](void *given) {
        Team &t = *static_cast<Team *>(given);
        t.job.work(static_cast<size_t>(t.number()) % t.job.ranges.size());
    };
    own->parallel(work, &team, static_cast<unsigned>(threads()), 0);
}

bool borrow_threads([[maybe_unused]] const char *library) {
    borrowed.store(nullptr, std::memory_order_release);
#if defined(__linux__)
    void *loaded = library ? dlopen(library, RTLD_NOW | RTLD_NOLOAD) : nullptr;
    if (!loaded) return false;
    auto own = std::make_unique<Borrowed>();
    own->parallel = reinterpret_cast<decltype(own->parallel)>(dlsym(loaded, "GOMP_parallel"));
    own->number = reinterpret_cast<decltype(own->number)>(dlsym(loaded, "omp_get_thread_num"));
    own->most = reinterpret_cast<decltype(own->most)>(dlsym(loaded, "omp_get_max_threads"));
    if (!own->parallel || !own->number || !own->most) return false;
    borrowed.store(own.release(), std::memory_order_release);
    return true;
#else
    return false;
#endif
}

}  // namespace compand
