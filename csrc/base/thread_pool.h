// Threads that run one function together. They spin briefly for the next call, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace faceattr {

// A reusable barrier that spins: phases of a forward pass are tens of microseconds apart, a sleep costs as much.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

 private:
  const int size_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> round_{0};
};

// One member of a group of threads that work on the same phases.
struct Team {
  int rank = 0;
  int size = 1;
  Barrier* barrier = nullptr;  // null where size is 1

  void sync() const {
    if (barrier != nullptr) barrier->wait();
  }
  // This member's share [begin, end) of `items` equal items.
  struct Range {
    std::int64_t begin, end;
  };
  Range share(std::int64_t items) const { return {items * rank / size, items * (rank + 1) / size}; }
};

class ThreadPool {
 public:
  using Function = std::function<void(const Team&)>;

  // The caller is a member too: `size` - 1 threads are started, at the first run.
  explicit ThreadPool(int size);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Runs `function` once per member and returns when all have finished. While another caller holds the pool, `function`
  // runs on this thread alone, as a team of one. `function` must not throw.
  void run(const Function& function);

  int size() const { return size_; }

 private:
  void start();
  void work(int rank);
  bool next_job(std::uint64_t seen);

  const int size_;
  std::mutex callers_;  // held by the caller whose job runs
  Barrier team_barrier_;
  const Function* job_ = nullptr;

  alignas(64) std::atomic<std::uint64_t> jobs_{0};  // count of jobs handed out
  alignas(64) std::atomic<int> running_{0};         // workers that have not finished the job
  std::atomic<bool> stop_{false};
  std::atomic<int> sleepers_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
};

}  // namespace faceattr
