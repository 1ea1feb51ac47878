#include "base/forks.h"

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace faceattr {

std::uint64_t fork_generation() {
  static std::atomic<std::uint64_t> generation{0};
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1); });
  (void)registered;
#endif
  return generation.load();
}

}  // namespace faceattr
