#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "cuda/emulator/machine.h"

namespace faceattr::cuda::emulator {
namespace {

// Machines that are free, with the stacks that they have.
std::mutex pool_mutex;
std::vector<std::unique_ptr<Machine>>& pool() {
  static std::vector<std::unique_ptr<Machine>> machines;
  return machines;
}

class Lease {
 public:
  Lease() {
    const std::lock_guard<std::mutex> lock(pool_mutex);
    if (pool().empty()) {
      machine_ = std::make_unique<Machine>();
    } else {
      machine_ = std::move(pool().back());
      pool().pop_back();
    }
  }
  ~Lease() {
    const std::lock_guard<std::mutex> lock(pool_mutex);
    pool().push_back(std::move(machine_));
  }
  Machine& operator*() { return *machine_; }

 private:
  std::unique_ptr<Machine> machine_;
};

void require(bool condition, const char* name, const std::string& expected, int64_t got) {
  if (!condition) {
    throw LaunchError(std::string("kernel ") + name + ": " + expected + ", got " + std::to_string(got));
  }
}

void check(const char* name, int max_threads, const LaunchConfig& config) {
  for (const int extent : {config.grid.x, config.grid.y, config.grid.z}) {
    require(extent >= 1, name, "a grid's extents must be positive", extent);
  }
  require(config.grid.y <= 65535 && config.grid.z <= 65535, name, "a grid's y and z are at most 65535",
          std::max(config.grid.y, config.grid.z));
  require(config.threads >= 32 && config.threads % 32 == 0 && config.threads <= std::min(max_threads, 1024), name,
          "threads must be a multiple of 32 up to " + std::to_string(std::min(max_threads, 1024)), config.threads);
  require(config.shared_bytes <= 232448, name, "shared_bytes must be at most 232448",
          static_cast<int64_t>(config.shared_bytes));
  require(config.cluster >= 1 && config.cluster <= 16, name, "cluster must be 1 to 16", config.cluster);
  require(config.grid.x % config.cluster == 0, name,
          "the grid's x must be a multiple of the cluster's " + std::to_string(config.cluster), config.grid.x);
  require(!(config.cooperative && config.cluster > 1), name, "a cooperative grid has clusters of 1", config.cluster);
}

}  // namespace

Options& options() {
  static Options instance;
  return instance;
}

void run_grid(const char* name, int max_threads, const LaunchConfig& config, void (*body)(const void*),
              const void* params) {
  check(name, max_threads, config);
  const Program program{name, config, body, params, global_ranges()};
  const int64_t blocks = static_cast<int64_t>(config.grid.x) * config.grid.y * config.grid.z;
  const int64_t step = config.cooperative ? blocks : config.cluster;
  const uint32_t seed = options().seed;

  std::atomic<int64_t> next{0};
  std::mutex fault_mutex;
  std::string fault;
  const auto work = [&] {
    Lease machine;
    for (;;) {
      const int64_t first = next.fetch_add(step);
      if (first >= blocks) return;
      try {
        // A seed of its own for each group of blocks, whichever host thread runs it. Knuth's multiplicative hash.
        (*machine).run(program, first, seed == 0 ? 0 : (seed + static_cast<uint32_t>(first)) * 2654435761u | 1);
      } catch (const LaunchError& error) {
        next.store(blocks);
        const std::lock_guard<std::mutex> lock(fault_mutex);
        if (fault.empty()) fault = error.what();
        return;
      }
    }
  };
  int64_t workers = options().host_threads > 0 ? options().host_threads : std::thread::hardware_concurrency();
  workers = std::min(std::max<int64_t>(workers, 1), (blocks + step - 1) / step);
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < workers; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (!fault.empty()) throw LaunchError(fault);
}

}  // namespace faceattr::cuda::emulator
