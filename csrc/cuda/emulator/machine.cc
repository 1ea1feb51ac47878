#include "cuda/emulator/machine.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace faceattr::cuda::emulator {

void Machine::run(const Program& program, int64_t first, uint32_t seed) {
  program_ = &program;
  seed_ = seed;
  random_ = seed ? seed : 1;
  running_machine = this;
  host_.abandon_others();
  set_up(first);
  while (alive_ > 0) {
    if (Thread* next = pick()) {
      current_ = next;
      Fiber::switch_from_to(host_, next->fiber);
      current_ = nullptr;
      if (!fault_.empty()) throw LaunchError(fault_);
    } else if (!in_flight_.empty()) {
      land_one();
    } else if (!polling_.empty() && idle_polls_++ < 1000) {
      wake_all(polling_);
    } else {
      report_deadlock();
    }
  }
  if (!in_flight_.empty()) fail("a bulk copy was still in flight when the last thread ended");
}

void Machine::set_up(int64_t first) {
  const LaunchConfig& config = program_->config;
  const int64_t grid_x = config.grid.x, grid_y = config.grid.y;
  const int count = config.cooperative ? static_cast<int>(grid_x * grid_y * config.grid.z) : config.cluster;
  const int warps = config.threads / 32;
  blocks_.clear();
  blocks_.resize(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    Block& block = blocks_[static_cast<size_t>(i)];
    const int64_t linear = first + i;
    block.index = {static_cast<int>(linear % grid_x), static_cast<int>(linear / grid_x % grid_y),
                   static_cast<int>(linear / grid_x / grid_y)};
    block.rank = block.index.x % config.cluster;
    block.shared.assign(config.shared_bytes, 0xff);
    block.writer.assign((config.shared_bytes + 15) / 16, 0);
    block.warps.resize(static_cast<size_t>(warps));
    block.warpgroups.resize(static_cast<size_t>((warps + 3) / 4));
    // What is given to a thread at the start: as much as 65536 registers allow, in steps of 8.
    for (Warpgroup& group : block.warpgroups) group.registers = std::min(65536 / config.threads / 8 * 8, 248);
  }
  alive_ = count * config.threads;
  while (threads_.size() < static_cast<size_t>(alive_)) threads_.push_back(std::make_unique<Thread>());
  fault_.clear();
  current_ = nullptr;
  polling_.clear();
  in_flight_.clear();
  idle_polls_ = 0;
  cluster_arrived_ = 0;
  cluster_phase_ = 0;
  cluster_waiting_.clear();
  warp_ = -1;
  ready_warps_.clear();
  ready_lanes_.assign(static_cast<size_t>(count * warps), 0);
  position_.assign(static_cast<size_t>(count * warps), -1);
  // Mostly one block or one warp hardly gets a turn: what does not wait for it soon shows.
  slow_begin_ = slow_end_ = 0;
  const int drawn = static_cast<int>(random() % static_cast<uint32_t>(count * warps));
  if (random() % 8 != 0) {
    const bool whole_block = count > 1 && random() % 4 != 0;
    slow_begin_ = whole_block ? drawn / warps * warps : drawn;
    slow_end_ = slow_begin_ + (whole_block ? warps : 1);
  }
  for (int i = 0; i < alive_; ++i) {
    Thread& thread = *threads_[static_cast<size_t>(i)];
    thread.fiber.prepare(&Machine::thread_entry);
    thread.block = &blocks_[static_cast<size_t>(i / config.threads)];
    thread.index = i % config.threads;
    thread.flat = i;
    thread.done = false;
    thread.waits_for = nullptr;
    thread.copies.clear();
    thread.copy_group = 0;
    thread.depends = config.dependent;
    thread.cluster_arrived = false;
    thread.fences = 0;
    wake(thread);
  }
}

void Machine::thread_entry() {
  Machine& machine = emulator::machine();
  Thread& thread = machine.thread();
  machine.program_->body(machine.program_->params);
  if (!thread.copies.empty()) machine.fail("ends without having waited for its copy_async");
  if (thread.fiber.overflowed()) machine.fail("overflowed its stack");
  const Collective& warp = thread.block->warps[static_cast<size_t>(thread.index / 32)];
  if (warp.arrived > 0) machine.fail("ends while others of its warp wait in %s", warp.name);
  thread.done = true;
  --machine.alive_;
  machine.progressed();
  machine.leave();
}

uint32_t Machine::random() {  // xorshift32
  random_ ^= random_ << 13;
  random_ ^= random_ >> 17;
  random_ ^= random_ << 5;
  return random_;
}

Thread* Machine::pick() {
  if (!in_flight_.empty() && random() % 64 == 0) land_one();
  if (ready_warps_.empty()) return nullptr;
  const bool stay = warp_ >= 0 && ready_lanes_[static_cast<size_t>(warp_)] != 0;
  if (seed_ == 0) {
    if (!stay) warp_ = *std::min_element(ready_warps_.begin(), ready_warps_.end());
  } else if (!stay || random() % 256 == 0) {
    for (int draw = 0; draw < 8; ++draw) {
      warp_ = ready_warps_[random() % ready_warps_.size()];
      if (warp_ < slow_begin_ || warp_ >= slow_end_) break;
    }
  }
  uint32_t& lanes = ready_lanes_[static_cast<size_t>(warp_)];
  const uint32_t turn = seed_ == 0 ? 0 : random_ >> 7 & 31;
  const uint32_t turned = lanes >> turn | lanes << (32 - turn) % 32;
  const uint32_t lane = (static_cast<uint32_t>(__builtin_ctz(turned)) + turn) % 32;
  lanes &= ~(1u << lane);
  if (lanes == 0) {
    const int at = position_[static_cast<size_t>(warp_)], last = ready_warps_.back();
    ready_warps_[static_cast<size_t>(at)] = last;
    position_[static_cast<size_t>(last)] = at;
    ready_warps_.pop_back();
    position_[static_cast<size_t>(warp_)] = -1;
  }
  return threads_[static_cast<size_t>(warp_) * 32 + lane].get();
}

void Machine::leave() {
  Thread* const self = current_;
  Thread* const next = pick();
  if (next == self) return;
  if (next) {
    current_ = next;
    Fiber::switch_from_to(self->fiber, next->fiber);
  } else {
    Fiber::switch_from_to(self->fiber, host_);
  }
}

void Machine::fail(const char* format, ...) {
  char what[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  char message[768];
  if (!current_) {
    std::snprintf(message, sizeof message, "kernel %s: %s", program_->name, what);
    throw LaunchError(message);
  }
  const Index3 index = current_->block->index;
  std::snprintf(message, sizeof message, "kernel %s, block (%d, %d, %d), thread %d: %s", program_->name, index.x,
                index.y, index.z, current_->index, what);
  fault_ = message;
  for (;;) Fiber::switch_from_to(current_->fiber, host_);
}

void Machine::wait(const char* what, uint32_t detail) {
  Thread& self = *current_;
  self.waits_for = what;
  self.wait_detail = detail;
  leave();
  self.waits_for = nullptr;
}

void Machine::wake(Thread& thread) {
  const size_t warp = static_cast<size_t>(thread.flat / 32);
  if (ready_lanes_[warp] == 0) {
    position_[warp] = static_cast<int>(ready_warps_.size());
    ready_warps_.push_back(static_cast<int>(warp));
  }
  ready_lanes_[warp] |= 1u << thread.flat % 32;
}

void Machine::wake_all(std::vector<Thread*>& threads) {
  for (Thread* thread : threads) wake(*thread);
  threads.clear();
}

void Machine::poll(const char* what, uint32_t detail) {
  polling_.push_back(current_);
  wait(what, detail);
}

void Machine::report_deadlock() {
  // One entry per block and thing waited for: how many threads, and the first of them.
  struct Entry {
    const Block* block;
    const char* what;
    uint32_t detail;
    int count, first;
  };
  std::vector<Entry> entries;
  for (int i = 0; i < static_cast<int>(blocks_.size()) * program_->config.threads; ++i) {
    const Thread& thread = *threads_[static_cast<size_t>(i)];
    if (thread.done) continue;
    const auto same = std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) {
      return entry.block == thread.block && entry.what == thread.waits_for && entry.detail == thread.wait_detail;
    });
    if (same == entries.end()) {
      entries.push_back({thread.block, thread.waits_for, thread.wait_detail, 1, thread.index});
    } else {
      ++same->count;
    }
  }
  std::string text = std::string("kernel ") + program_->name + ": deadlock";
  for (size_t i = 0; i < entries.size() && i < 16; ++i) {
    const Entry& entry = entries[i];
    char line[192];
    std::snprintf(line, sizeof line, "\n  block (%d, %d, %d): %d threads from thread %d on wait in %s (%u)",
                  entry.block->index.x, entry.block->index.y, entry.block->index.z, entry.count, entry.first,
                  entry.what ? entry.what : "nothing", entry.detail);
    text += line;
  }
  if (entries.size() > 16) text += "\n  and others";
  throw LaunchError(text);
}

bool Machine::arrive(Collective& collective, int width, const char* name, int variant, const void* arguments) {
  if (collective.arrived == 0) {
    collective.name = name;
    collective.variant = variant;
  } else if (collective.variant != variant || std::string(collective.name) != name) {
    fail("calls %s (%d) while others of its %s wait in %s (%d)", name, variant, width == 32 ? "warp" : "warpgroup",
         collective.name, collective.variant);
  }
  collective.arguments[current_->index % width] = arguments;
  if (++collective.arrived == width) return true;
  wait(name, static_cast<uint32_t>(variant));
  return false;
}

void Machine::release(Collective& collective, int width) {
  collective.arrived = 0;
  progressed();
  const int begin = current_->flat - current_->index % width;
  for (int i = begin; i < begin + width; ++i) {
    if (i != current_->flat) wake(*threads_[static_cast<size_t>(i)]);
  }
}

void Machine::sync(int id, int threads, bool wait_for_others) {
  if (id < 0 || id > 15 || threads <= 0 || threads % 32 != 0 || threads > program_->config.threads) {
    fail("barrier %d of %d threads: ids are 0 to 15, counts multiples of 32 up to the block's %d", id, threads,
         program_->config.threads);
  }
  Barrier& barrier = block().barriers[id];
  if (barrier.arrived > 0 && barrier.expected != threads) {
    fail("calls barrier %d with %d threads while others call it with %d", id, threads, barrier.expected);
  }
  barrier.expected = threads;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    progressed();
    wake_all(barrier.waiting);
  } else if (wait_for_others) {
    barrier.waiting.push_back(current_);
    wait(id == 0 ? "sync_block" : "named_barrier_sync", static_cast<uint32_t>(id));
  }
}

void Machine::cluster_arrive() {
  Thread& self = *current_;
  if (self.cluster_arrived) fail("calls cluster_arrive twice without cluster_wait");
  self.cluster_arrived = true;
  self.cluster_target = cluster_phase_ + 1;
  if (++cluster_arrived_ == static_cast<int>(blocks_.size()) * program_->config.threads) {
    cluster_arrived_ = 0;
    ++cluster_phase_;
    progressed();
    wake_all(cluster_waiting_);
  }
}

void Machine::cluster_wait() {
  Thread& self = *current_;
  if (!self.cluster_arrived) fail("calls cluster_wait without cluster_arrive");
  self.cluster_arrived = false;
  if (cluster_phase_ < self.cluster_target) {
    cluster_waiting_.push_back(&self);
    wait("cluster_wait");
  }
}

}  // namespace faceattr::cuda::emulator
