// What the engine asks of the CUDA runtime, and nothing more. runtime_cuda.cu calls it; runtime_emulated.cc keeps
// "device" memory on the host and works off everything at once. Handles are the runtime's own.
//
// Every call is checked. What fails throws CudaError, whose message names the call, the device and the stream; what
// frees cannot fail: after an error that sticks, the next call that can throws.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/program.h"

namespace faceattr::cuda {

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Event = void*;  // a cudaEvent_t

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::size_t shared_bytes = 0;  // that a block may have at most
};

extern const bool kEmulated;

// Devices of this process; where there are none, `reason` says why. Never throws.
int device_count(std::string* reason);
DeviceInfo device_info(int device);
// The device that owns the memory at `pointer`; -1: the host.
int device_of(const void* pointer);

// The calling thread's device for as long as this lives; then its former one again.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int former_, device_;
};

// Lets the calling thread allocate while it, or another one, captures a stream.
class AllowDuringCapture {
 public:
  AllowDuringCapture();
  ~AllowDuringCapture();
  AllowDuringCapture(const AllowDuringCapture&) = delete;
  AllowDuringCapture& operator=(const AllowDuringCapture&) = delete;

 private:
  int former_ = 0;
};

// On the thread's device, from here on. Memory is aligned to 256 bytes.
void* allocate(std::size_t bytes);
void release(void* memory) noexcept;
void* allocate_pinned(std::size_t bytes);  // of the host, for copies that overlap with work
void release_pinned(void* memory) noexcept;

Stream create_stream();  // in no order with the legacy default stream
void destroy_stream(Stream stream) noexcept;
void synchronize(Stream stream);
bool capturing(Stream stream);  // a graph that somebody else will launch

Event create_event();
void destroy_event(Event event) noexcept;
void record(Event event, Stream stream);
void wait(Stream stream, Event event);
bool finished(Event event);
void synchronize_event(Event event);
double seconds_between(Event first, Event second);  // both have been reached

// Handles with an owner.
class OwnStream {
 public:
  OwnStream() : stream_(create_stream()) {}
  ~OwnStream() {
    try {
      synchronize(stream_);  // what it was given may use memory that is freed next
    } catch (const CudaError&) {
    }
    destroy_stream(stream_);
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  Stream get() const { return stream_; }

 private:
  Stream stream_;
};

class OwnEvent {
 public:
  OwnEvent() : event_(create_event()) {}
  ~OwnEvent() { destroy_event(event_); }
  OwnEvent(const OwnEvent&) = delete;
  OwnEvent& operator=(const OwnEvent&) = delete;
  Event get() const { return event_; }

 private:
  Event event_;
};

void copy_to_device(void* dst, const void* src, std::size_t bytes, Stream stream);
void copy_to_host(void* dst, const void* src, std::size_t bytes, Stream stream);

// Launches that are recorded once, as a graph, and replayed with other pointers.
class Recording {
 public:
  using Pointers = std::vector<const void*>;
  // `enqueue` launches kernels that read the pointers given to it from their parameters, and nowhere else. It is called
  // at once, with `pointers`, which are as much as `bytes` long.
  Recording(std::function<void(const Pointers&, Stream)> enqueue, const Pointers& pointers,
            const std::vector<std::size_t>& bytes);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // False where the launches do not show some pointer: they cannot be replayed with another.
  bool usable() const;
  // Not before the replay before it has ended, as streams see it.
  void replay(const Pointers& pointers, Stream stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace faceattr::cuda
