// Threads, locks and device handles of a parent do not exist in its forked child: what holds some remembers the
// generation that it was made in.
#pragma once

#include <cstdint>

namespace faceattr {

// The number of forks between the first process that asked and this one.
std::uint64_t fork_generation();

}  // namespace faceattr
