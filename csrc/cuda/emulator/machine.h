// The emulated device: blocks of a cluster (or of a whole cooperative grid) whose threads are fibers of one host
// thread.
//
// The order of threads is drawn from a seed. A warp runs on for a while, so that some warps get far ahead of others;
// what a kernel does without a barrier then happens in every order that a few seeds can show.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda/emulator/fiber.h"
#include "cuda/emulator/global_memory.h"
#include "cuda/launch_config.h"

namespace faceattr::cuda::emulator {

// For the launches that follow; a process has one.
struct Options {
  uint32_t seed = 1;     // 0: threads in order, each as far as it gets
  int host_threads = 0;  // that run blocks at once; 0: as many as the host has
};
Options& options();

constexpr SharedAddress kSharedBase = 1024;  // where it begins on sm_90, too: addresses below are the system's

struct Block;

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  int index = 0;  // in the block
  int flat = 0;   // in the machine
  bool done = false;

  // What it waits for, to be told in a report.
  const char* waits_for = nullptr;
  uint32_t wait_detail = 0;

  struct Copy {
    SharedAddress dst;
    const void* src;  // null: zeros
    int group;
  };
  std::vector<Copy> copies;  // copy_async, in order of issue
  int copy_group = 0;        // the open one

  bool depends = false;  // a dependent launch, and dependency_wait not yet called
  bool cluster_arrived = false;
  uint32_t cluster_target = 0;
  uint32_t fences = 0;  // fence_async calls
};

// A rendezvous of the threads of a warp or warpgroup that call the same function.
struct Collective {
  const char* name = nullptr;
  int variant = 0;
  int arrived = 0;
  const void* arguments[128];
};

struct Barrier {
  int expected = 0, arrived = 0;
  std::vector<Thread*> waiting;
};

struct Mbarrier {
  uint32_t arrivals = 0, pending = 0;
  int64_t bytes = 0;
  uint32_t phase = 0;
  std::vector<Thread*> waiting;
};

enum class Element { kFloat16, kBfloat16, kFloat8E4m3, kInt8, kUint8 };

struct Product {  // a wgmma that was issued
  Element element;
  int n;
  uint64_t a, b;
  bool accumulate;
  uint64_t checksum;  // of the operands when issued
  void* acc[128];
};

struct Warpgroup {
  Collective collective;
  bool fenced = false;
  std::vector<Product> open;
  std::vector<std::vector<Product>> groups;
  int registers = 0;  // per thread
};

struct Block {
  Index3 index;
  int rank = 0;  // in the cluster
  std::vector<uint8_t> shared;
  // Per 16 bytes of shared memory: 0, or who stored to it last and how many fences that thread had done.
  std::vector<uint64_t> writer;
  Barrier barriers[16];
  std::map<SharedAddress, Mbarrier> mbarriers;
  std::vector<Collective> warps;
  std::vector<Warpgroup> warpgroups;
};

struct BulkCopy {
  Block* block;
  SharedAddress dst;
  const uint8_t* src;
  uint32_t bytes;
  SharedAddress barrier;
};

struct Program {
  const char* name;
  LaunchConfig config;
  void (*body)(const void* params);
  const void* params;
  std::vector<GlobalRange> global;
};

class Machine {
 public:
  // Runs the blocks from `first` on, as many as the cluster has (or all of a cooperative grid). Throws LaunchError.
  void run(const Program& program, int64_t first, uint32_t seed);

  Thread& thread() { return *current_; }
  Block& block() { return *current_->block; }
  const Program& program() const { return *program_; }
  std::vector<Block>& blocks() { return blocks_; }
  Warpgroup& warpgroup() { return block().warpgroups[static_cast<size_t>(current_->index / 128)]; }

  // Ends the launch: with the message, the kernel, the block and the thread. Of a fiber, does not return to it.
  [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));

  // Lets others run until somebody wakes this thread.
  void wait(const char* what, uint32_t detail = 0);
  void wake(Thread& thread);
  void wake_all(std::vector<Thread*>& threads);
  // Lets others run until there is nothing else to do.
  void poll(const char* what, uint32_t detail = 0);
  void progressed() { idle_polls_ = 0; }

  // True for the last of `width` threads, which then owns `arguments`, and calls release(). The others return after it.
  bool arrive(Collective& collective, int width, const char* name, int variant, const void* arguments);
  void release(Collective& collective, int width);

  void sync(int id, int threads, bool wait_for_others);
  void cluster_arrive();
  void cluster_wait();

  // Checked addresses.
  uint8_t* shared(Block& block, SharedAddress address, uint32_t bytes, const char* what);
  void check_global(const void* address, size_t bytes, const char* what);
  // Generic stores: of this thread, and of its copies that land.
  void mark_written(Block& block, SharedAddress address, uint32_t bytes);
  // Ends the launch if the async proxy would not see a store to these bytes.
  void check_fenced(Block& block, SharedAddress address, uint32_t bytes, const char* what);

  void land_copies(int groups_left);  // of this thread

  Mbarrier& mbarrier(Block& block, SharedAddress address);
  void step(Mbarrier& barrier, SharedAddress address, uint32_t arrivals, int64_t bytes);
  void issue(BulkCopy copy);

 private:
  static void thread_entry();
  Thread* pick();
  uint32_t random();
  void leave();
  void land_one();
  void set_up(int64_t first);
  [[noreturn]] void report_deadlock();

  const Program* program_ = nullptr;
  std::vector<std::unique_ptr<Thread>> threads_;  // kept with their stacks from one run to the next
  std::vector<Block> blocks_;
  int alive_ = 0;
  Fiber host_;
  Thread* current_ = nullptr;
  std::string fault_;

  std::vector<uint32_t> ready_lanes_;  // by warp
  std::vector<int> ready_warps_, position_;
  int warp_ = -1;                      // that runs
  int slow_begin_ = 0, slow_end_ = 0;  // warps that others overtake
  std::vector<Thread*> polling_;
  int idle_polls_ = 0;
  uint32_t seed_ = 0, random_ = 1;

  std::vector<BulkCopy> in_flight_;
  size_t last_range_ = 0;

  int cluster_arrived_ = 0;
  uint32_t cluster_phase_ = 0;
  std::vector<Thread*> cluster_waiting_;
};

// Of the host thread that calls.
inline thread_local Machine* running_machine = nullptr;
inline Machine& machine() { return *running_machine; }

// Runs a whole grid.
void run_grid(const char* name, int max_threads, const LaunchConfig& config, void (*body)(const void*),
              const void* params);

}  // namespace faceattr::cuda::emulator
