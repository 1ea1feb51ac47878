#include "base/thread_pool.h"

#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace faceattr {
namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // waits some ten nanoseconds, like x86's pause; "yield" does nothing on most cores
#endif
}

// About 10 us of pauses; then give the core away, since the thread waited for may need it.
constexpr int kSpins = 400;
// About 100 us until a worker sleeps: longer than the gap between back-to-back calls, short beside a scheduler tick.
constexpr int kSpinsBeforeSleep = 4000;

template <class Done>
void spin_until(const Done& done) {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace

void Barrier::wait() {
  const std::uint32_t round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  spin_until([&] { return round_.load(std::memory_order_acquire) != round; });
}

ThreadPool::ThreadPool(int size) : size_(size < 1 ? 1 : size), team_barrier_(size_) {}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(sleep_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::start() {
  threads_.reserve(size_ - 1);
  while (static_cast<int>(threads_.size()) < size_ - 1) {
    const int rank = static_cast<int>(threads_.size()) + 1;
    threads_.emplace_back([this, rank] { work(rank); });
  }
}

void ThreadPool::run(const Function& function) {
  std::unique_lock<std::mutex> lock(callers_, std::try_to_lock);
  if (size_ == 1 || !lock.owns_lock()) {
    function(Team{});
    return;
  }
  try {
    start();
  } catch (const std::system_error&) {  // no more threads to be had: the result is the same, only later
    function(Team{});
    return;
  }
  job_ = &function;
  running_.store(size_ - 1, std::memory_order_relaxed);
  jobs_.fetch_add(1);  // sequentially consistent, with sleepers_: either a worker sees the job or we see the sleeper
  if (sleepers_.load() > 0) {
    {
      std::lock_guard<std::mutex> sleeping(sleep_);
    }
    wake_.notify_all();
  }
  function(Team{0, size_, &team_barrier_});
  spin_until([&] { return running_.load(std::memory_order_acquire) == 0; });
}

bool ThreadPool::next_job(std::uint64_t seen) {
  for (int spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    if (jobs_.load(std::memory_order_acquire) != seen) return true;
    if (stop_.load(std::memory_order_relaxed)) return false;
    pause();
  }
  std::unique_lock<std::mutex> lock(sleep_);
  sleepers_.fetch_add(1);
  wake_.wait(lock, [&] { return jobs_.load() != seen || stop_.load(); });
  sleepers_.fetch_sub(1);
  return jobs_.load() != seen;
}

void ThreadPool::work(int rank) {
  for (std::uint64_t seen = 0; next_job(seen); ++seen) {
    (*job_)(Team{rank, size_, &team_barrier_});
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace faceattr
