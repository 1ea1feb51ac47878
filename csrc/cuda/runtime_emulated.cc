// The runtime of the emulator: two devices, one of the first generation that kernels run on and one of Hopper's, whose
// memory is the host's. Streams work off everything at once, so events are points in time.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "cuda/emulator/global_memory.h"
#include "cuda/runtime.h"

namespace faceattr::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::align_val_t kAlignment{256};

const DeviceInfo kDevices[] = {{"host emulator", 8, 0, 108, 166912}, {"host emulator", 9, 0, 132, 232448}};

thread_local int current_device = 0;

// Allocations by address.
struct Block {
  std::size_t bytes;
  int device;
};
std::map<const std::byte*, Block>& blocks() {
  static auto* all = new std::map<const std::byte*, Block>;  // outlives what is freed when the process ends
  return *all;
}
std::mutex& blocks_mutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

}  // namespace

const bool kEmulated = true;

int device_count(std::string*) { return static_cast<int>(std::size(kDevices)); }
DeviceInfo device_info(int device) { return kDevices[device]; }

int device_of(const void* pointer) {
  const auto* address = static_cast<const std::byte*>(pointer);
  std::lock_guard<std::mutex> lock(blocks_mutex());
  auto after = blocks().upper_bound(address);
  if (after == blocks().begin()) return -1;
  const auto& [begin, block] = *std::prev(after);
  return address < begin + block.bytes ? block.device : -1;
}

OnDevice::OnDevice(int device) : former_(current_device), device_(device) { current_device = device; }
OnDevice::~OnDevice() { current_device = former_; }
AllowDuringCapture::AllowDuringCapture() = default;
AllowDuringCapture::~AllowDuringCapture() = default;

void* allocate(std::size_t bytes) {
  void* memory = ::operator new(std::max<std::size_t>(bytes, 1), kAlignment);
  std::memset(memory, 0xff, bytes);  // NaNs: nobody may count on anything else
  emulator::register_global(memory, bytes);
  std::lock_guard<std::mutex> lock(blocks_mutex());
  blocks()[static_cast<const std::byte*>(memory)] = {bytes, current_device};
  return memory;
}

void release(void* memory) noexcept {
  if (memory == nullptr) return;
  emulator::unregister_global(memory);
  {
    std::lock_guard<std::mutex> lock(blocks_mutex());
    blocks().erase(static_cast<const std::byte*>(memory));
  }
  ::operator delete(memory, kAlignment);
}

void* allocate_pinned(std::size_t bytes) { return ::operator new(bytes, kAlignment); }
void release_pinned(void* memory) noexcept { ::operator delete(memory, kAlignment); }

Stream create_stream() { return new int(0); }
void destroy_stream(Stream stream) noexcept { delete static_cast<int*>(stream); }
void synchronize(Stream) {}
bool capturing(Stream) { return false; }

Event create_event() { return new Clock::time_point(Clock::now()); }
void destroy_event(Event event) noexcept { delete static_cast<Clock::time_point*>(event); }
void record(Event event, Stream) { *static_cast<Clock::time_point*>(event) = Clock::now(); }
void wait(Stream, Event) {}
bool finished(Event) { return true; }
void synchronize_event(Event) {}
double seconds_between(Event first, Event second) {
  const auto& [from, to] = std::pair(*static_cast<Clock::time_point*>(first), *static_cast<Clock::time_point*>(second));
  return std::chrono::duration<double>(to - from).count();
}

void copy_to_device(void* dst, const void* src, std::size_t bytes, Stream) { std::memcpy(dst, src, bytes); }
void copy_to_host(void* dst, const void* src, std::size_t bytes, Stream) { std::memcpy(dst, src, bytes); }

struct Recording::State {
  std::function<void(const Pointers&, Stream)> enqueue;
};

Recording::Recording(std::function<void(const Pointers&, Stream)> enqueue, const Pointers&,
                     const std::vector<std::size_t>&)
    : state_(new State{std::move(enqueue)}) {}
Recording::~Recording() = default;
bool Recording::usable() const { return true; }
void Recording::replay(const Pointers& pointers, Stream stream) { state_->enqueue(pointers, stream); }

}  // namespace faceattr::cuda
