// The memory that a call needs to itself, and what was recorded in it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/runtime.h"

namespace faceattr::cuda {

// Owns memory of the device.
class DeviceBlock {
 public:
  explicit DeviceBlock(std::size_t bytes) : data_(allocate(bytes)) {}
  ~DeviceBlock() { release(data_); }
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_;
};

struct Workspace {
  Workspace(std::size_t bytes, int images) : memory(bytes), images(images) {}

  DeviceBlock memory;
  const int images;  // at most
  OwnEvent done;     // the last call has ended, on `stream`
  Stream stream = nullptr;
  bool used = false;
  // By (images, uint8 pixels): how often it ran, and from the second time on how to replay it.
  struct Replay {
    int runs = 0;
    std::unique_ptr<Recording> recording;
  };
  std::map<std::pair<int, bool>, Replay> replays;
};

// Workspaces of one device: each call leases one, in order of their work on the device.
class Workspaces {
 public:
  explicit Workspaces(const Program& program) : program_(program) {}

  // One for `images`, which no other call uses until it is given back; work that `stream` gets from now on comes after
  // that of the lease before.
  std::unique_ptr<Workspace> lease(int images, Stream stream);
  // When `stream` has come to where it is now, others may use it.
  void give_back(std::unique_ptr<Workspace> workspace, Stream stream);
  // One for a graph of the caller's, which may be launched at any time: it never goes to another call.
  Workspace& keep(int images);

 private:
  // What concurrent callers get before they wait for each other's work.
  static constexpr std::size_t kMost = 16;

  std::unique_ptr<Workspace> make(int images) const;

  const Program& program_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_, kept_;
};

}  // namespace faceattr::cuda
