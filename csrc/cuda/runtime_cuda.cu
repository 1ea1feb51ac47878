// The runtime of CUDA, linked statically. It loads the driver when it is first called, so the module imports where
// there is none.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "cuda/runtime.h"

namespace faceattr::cuda {
namespace {

std::string describe(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// Throws where `error` is one. Takes it off the thread's list, so that it is not met again by whoever looks next; an
// error that sticks comes back by itself.
void check(cudaError_t error, const char* call, Stream stream = nullptr) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();
  int device = -1;
  (void)cudaGetDevice(&device);
  char where[64];
  std::snprintf(where, sizeof where, " (cuda:%d, stream %p): ", device, stream);
  throw CudaError(std::string(call) + where + describe(error));
}

#define FA_CUDA(call) check(call, #call)
#define FA_CUDA_STREAM(call, stream) check(call, #call, stream)

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t native_event(Event event) { return static_cast<cudaEvent_t>(event); }

}  // namespace

const bool kEmulated = false;

int device_count(std::string* reason) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  (void)cudaGetLastError();
  *reason = error == cudaSuccess ? "the driver shows no device" : describe(error);
  return 0;
}

DeviceInfo device_info(int device) {
  cudaDeviceProp properties;
  FA_CUDA(cudaGetDeviceProperties(&properties, device));
  return {properties.name, properties.major, properties.minor, properties.multiProcessorCount,
          properties.sharedMemPerBlockOptin};
}

int device_of(const void* pointer) {
  cudaPointerAttributes attributes;
  FA_CUDA(cudaPointerGetAttributes(&attributes, pointer));
  const bool device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return device ? attributes.device : -1;
}

OnDevice::OnDevice(int device) : former_(-1), device_(device) {
  FA_CUDA(cudaGetDevice(&former_));
  if (former_ != device_) FA_CUDA(cudaSetDevice(device_));
}
OnDevice::~OnDevice() {
  if (former_ != device_) (void)cudaSetDevice(former_);
}

AllowDuringCapture::AllowDuringCapture() {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  former_ = mode;
}
AllowDuringCapture::~AllowDuringCapture() {
  auto mode = static_cast<cudaStreamCaptureMode>(former_);
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
}

void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  FA_CUDA(cudaMalloc(&memory, bytes));
  return memory;
}
void release(void* memory) noexcept { (void)cudaFree(memory); }
void* allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  FA_CUDA(cudaMallocHost(&memory, bytes));
  return memory;
}
void release_pinned(void* memory) noexcept { (void)cudaFreeHost(memory); }

Stream create_stream() {
  cudaStream_t stream = nullptr;
  FA_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}
void destroy_stream(Stream stream) noexcept { (void)cudaStreamDestroy(native(stream)); }
void synchronize(Stream stream) { FA_CUDA_STREAM(cudaStreamSynchronize(native(stream)), stream); }
bool capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(native(stream), &status);
  // The legacy stream cannot be captured, but it cannot be asked while another one is.
  if (error == cudaErrorStreamCaptureImplicit) {
    (void)cudaGetLastError();
    return false;
  }
  check(error, "cudaStreamIsCapturing", stream);
  return status != cudaStreamCaptureStatusNone;
}

Event create_event() {
  cudaEvent_t event = nullptr;
  FA_CUDA(cudaEventCreate(&event));
  return event;
}
void destroy_event(Event event) noexcept { (void)cudaEventDestroy(native_event(event)); }
void record(Event event, Stream stream) {
  FA_CUDA_STREAM(cudaEventRecord(native_event(event), native(stream)), stream);
}
void wait(Stream stream, Event event) {
  FA_CUDA_STREAM(cudaStreamWaitEvent(native(stream), native_event(event), 0), stream);
}
bool finished(Event event) {
  const cudaError_t error = cudaEventQuery(native_event(event));
  if (error == cudaErrorNotReady) return false;
  check(error, "cudaEventQuery");
  return true;
}
void synchronize_event(Event event) { FA_CUDA(cudaEventSynchronize(native_event(event))); }
double seconds_between(Event first, Event second) {
  float milliseconds = 0;
  FA_CUDA(cudaEventElapsedTime(&milliseconds, native_event(first), native_event(second)));
  return milliseconds * 1e-3;
}

void copy_to_device(void* dst, const void* src, std::size_t bytes, Stream stream) {
  FA_CUDA_STREAM(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, native(stream)), stream);
}
void copy_to_host(void* dst, const void* src, std::size_t bytes, Stream stream) {
  FA_CUDA_STREAM(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, native(stream)), stream);
}

// A kernel node whose parameters, one struct each, hold some of the pointers.
struct PatchedNode {
  struct Place {
    std::size_t word;     // of the struct, in units of 8 bytes
    std::size_t pointer;  // which one
    std::ptrdiff_t offset;
  };
  cudaGraphNode_t node;
  cudaKernelNodeParams launch;
  std::vector<std::uint64_t> parameters;
  std::vector<Place> places;
};

struct Recording::State {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  std::vector<PatchedNode> nodes;
  Pointers current;
  bool usable = false;

  ~State() {
    if (executable != nullptr) (void)cudaGraphExecDestroy(executable);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
  }

  void find(const Pointers& pointers, const std::vector<std::size_t>& bytes) {
    std::size_t count = 0;
    FA_CUDA(cudaGraphGetNodes(graph, nullptr, &count));
    std::vector<cudaGraphNode_t> all(count);
    FA_CUDA(cudaGraphGetNodes(graph, all.data(), &count));
    std::vector<bool> found(pointers.size());
    for (cudaGraphNode_t node : all) {
      cudaGraphNodeType type;
      FA_CUDA(cudaGraphNodeGetType(node, &type));
      if (type != cudaGraphNodeTypeKernel) continue;
      PatchedNode patched = {node, {}, {}, {}};
      FA_CUDA(cudaGraphKernelNodeGetParams(node, &patched.launch));
      std::size_t offset = 0, size = 0;
      FA_CUDA(cudaFuncGetParamInfo(patched.launch.func, 0, &offset, &size));
      patched.parameters.resize((size + 7) / 8);
      std::memcpy(patched.parameters.data(), patched.launch.kernelParams[0], size);
      for (std::size_t w = 0; w < size / 8; ++w) {
        for (std::size_t p = 0; p < pointers.size(); ++p) {
          const std::uint64_t begin = reinterpret_cast<std::uint64_t>(pointers[p]), word = patched.parameters[w];
          if (word < begin || word >= begin + bytes[p]) continue;
          patched.places.push_back({w, p, static_cast<std::ptrdiff_t>(word - begin)});
          found[p] = true;
        }
      }
      if (!patched.places.empty()) nodes.push_back(std::move(patched));
    }
    usable = std::find(found.begin(), found.end(), false) == found.end();
  }

  void set(const Pointers& pointers) {
    if (pointers == current) return;
    current.clear();  // until all of them are set
    for (PatchedNode& node : nodes) {
      for (const PatchedNode::Place& place : node.places) {
        node.parameters[place.word] = reinterpret_cast<std::uint64_t>(pointers[place.pointer]) + place.offset;
      }
      void* parameters[] = {node.parameters.data()};
      cudaKernelNodeParams launch = node.launch;
      launch.kernelParams = parameters;
      launch.extra = nullptr;
      FA_CUDA(cudaGraphExecKernelNodeSetParams(executable, node.node, &launch));
    }
    current = pointers;
  }
};

Recording::Recording(std::function<void(const Pointers&, Stream)> enqueue, const Pointers& pointers,
                     const std::vector<std::size_t>& bytes)
    : state_(new State) {
  FA_CUDA(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking));
  // Relaxed: other threads go on allocating.
  FA_CUDA(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeRelaxed));
  try {
    enqueue(pointers, state_->stream);
  } catch (...) {
    (void)cudaStreamEndCapture(state_->stream, &state_->graph);
    (void)cudaGetLastError();
    throw;
  }
  FA_CUDA(cudaStreamEndCapture(state_->stream, &state_->graph));
  FA_CUDA(cudaGraphInstantiate(&state_->executable, state_->graph, 0));
  state_->current = pointers;
  state_->find(pointers, bytes);
}
Recording::~Recording() = default;
bool Recording::usable() const { return state_->usable; }
void Recording::replay(const Pointers& pointers, Stream stream) {
  state_->set(pointers);
  FA_CUDA_STREAM(cudaGraphLaunch(state_->executable, native(stream)), stream);
}

}  // namespace faceattr::cuda
