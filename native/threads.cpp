#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
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
        char *end = nullptr;
        const long n = std::strtol(asked, &end, 10);
        if (*asked && !*end && n > 0 && n <= 256) return static_cast<int>(n);
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

// Threads that stay awake for the loops of one caller. A range is (turn, end, next) in one number, so that a thread which comes late to a
// turn takes nothing of a later one; a loop's body and beginnings stand until all that was taken is done.
class Crew {
public:
    explicit Crew(size_t width) : ranges_(width) {}

    void run(size_t n, const std::function<void(size_t)> &body) {  // by the caller
        const size_t width = ranges_.size();
        each_ = n / (kMost * width) + 1;
        const size_t units = (n + each_ - 1) / each_;
        n_ = n;
        body_ = &body;
        done_.store(0, std::memory_order_relaxed);
        const uint64_t turn = static_cast<uint32_t>(turn_.load(std::memory_order_relaxed) + 1);
        for (size_t k = 0; k < width; ++k) {
            ranges_[k].begin = units * k / width;
            const uint64_t count = units * (k + 1) / width - ranges_[k].begin;
            ranges_[k].state.store(turn << 32 | count << 16, std::memory_order_release);
        }
        turn_.store(static_cast<uint32_t>(turn), std::memory_order_release);
        work(0, turn);
        for (int spin = 0; done_.load(std::memory_order_acquire) < n; ++spin) wait(spin);
    }
    void serve(size_t own) {  // by the others
        for (uint32_t seen = 0;;) {
            uint32_t turn = 0;
            for (int spin = 0; (turn = turn_.load(std::memory_order_acquire)) == seen; ++spin) {
                if (over_.load(std::memory_order_acquire)) return;
                wait(spin);
            }
            seen = turn;
            work(own % ranges_.size(), turn);
        }
    }
    void end() { over_.store(true, std::memory_order_release); }

private:
    static constexpr size_t kMost = 32767;  // units of a range
    struct alignas(64) Range {
        std::atomic<uint64_t> state{0};
        size_t begin = 0;
    };

    static void wait(int spin) {
        if (spin < 2000) pause();
        else std::this_thread::yield();
    }
    void work(size_t own, uint64_t turn) {
        for (size_t k = 0; k < ranges_.size(); ++k) {
            Range &range = ranges_[(own + k) % ranges_.size()];
            for (uint64_t state = range.state.load(std::memory_order_acquire); state >> 32 == turn && (state & 0xffff) < (state >> 16 & 0xffff);) {
                if (!range.state.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
                const size_t first = (range.begin + (state & 0xffff)) * each_, last = std::min(n_, first + each_);
                for (size_t i = first; i < last; ++i) (*body_)(i);
                done_.fetch_add(last - first, std::memory_order_release);
                ++state;
            }
        }
    }

    std::vector<Range> ranges_;
    const std::function<void(size_t)> *body_ = nullptr;
    size_t n_ = 0, each_ = 1;
    alignas(64) std::atomic<uint32_t> turn_{0};
    alignas(64) std::atomic<size_t> done_{0};
    std::atomic<bool> over_{false};
};

// Workers spin briefly for the next job before they sleep, so that back-to-back small jobs start in about a microsecond.
class Pool {
public:
    // body(i) for i < n on `width` threads of which this is one; `own`, if given, comes first here and ends before this helps.
    // False, and nothing is done, while another thread's job runs: to wait for it could be to wait for oneself.
    bool run(size_t n, int width, const std::function<void(size_t)> &body, const std::function<void()> *own = nullptr) {
        const std::unique_lock<std::mutex> one_job_at_a_time(entry_, std::try_to_lock);
        if (!one_job_at_a_time) return false;
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
        if (own) (*own)();
        job->work(0);
        for (int spin = 0; job->done.load(std::memory_order_acquire) < n; ++spin) {
            if (spin < 200) pause();
            else std::this_thread::yield();
        }
        std::lock_guard<std::mutex> lock(mutex_);
        job_.reset();
        return true;
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
thread_local Crew *crew = nullptr;  // of this thread's `together`

// The whole team of OpenMP, this thread as number 0: it ends and starts threads when their number changes.
template <class F> void on_team(const Borrowed &own, const F &work) {
    struct Team {
        const F &work;
        int (*number)();
    } team{work, own.number};
    own.parallel([](void *given) {
        const Team &t = *static_cast<const Team *>(given);
        t.work(static_cast<size_t>(t.number()));
    }, &team, static_cast<unsigned>(threads()), 0);
}

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
    if (crew) return crew->run(n, marked);
    const Borrowed *own = lent();
    if (!own || own->most() != threads()) {
        if (!pool().run(n, width, marked))
            for (size_t i = 0; i < n; ++i) body(i);
        return;
    }
    Job job(n, static_cast<size_t>(width), marked);
    on_team(*own, [&](size_t number) { job.work(number % job.ranges.size()); });
}

void together(const std::function<void()> &body) {
    const int width = threads();
    if (width <= 1 || inside || crew) return body();
    Crew own(static_cast<size_t>(width));
    std::exception_ptr fault;
    const std::function<void()> first = [&] {
        crew = &own;
        try {
            body();
        } catch (...) {
            fault = std::current_exception();
        }
        crew = nullptr;
        own.end();
    };
    const Borrowed *team = lent();
    if (team && team->most() == width) {
        on_team(*team, [&](size_t number) { number ? own.serve(number) : first(); });
    } else if (!pool().run(static_cast<size_t>(width) - 1, width, [&](size_t i) { own.serve(i + 1); }, &first)) {
        return body();
    }
    if (fault) std::rethrow_exception(fault);
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
