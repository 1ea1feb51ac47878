#include "cuda/workspace.h"

#include <algorithm>
#include <utility>

namespace faceattr::cuda {

std::unique_ptr<Workspace> Workspaces::make(int images) const {
  // Powers of two: batches of all sizes share few workspaces.
  int capacity = 1;
  while (capacity < images) capacity *= 2;
  capacity = std::min(capacity, program_.max_images());
  const AllowDuringCapture allow;
  return std::make_unique<Workspace>(program_.workspace_bytes(capacity), capacity);
}

std::unique_ptr<Workspace> Workspaces::lease(int images, Stream stream) {
  std::unique_ptr<Workspace> found, too_small;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto find = [&](const auto& suits) {
      return std::find_if(idle_.begin(), idle_.end(), [&](const auto& w) { return w->images >= images && suits(*w); });
    };
    // The stream's own first: a caller alone always gets the same. One whose work has ended makes nobody wait either.
    auto best = find([&](const Workspace& w) { return w.used && w.stream == stream; });
    if (best == idle_.end()) best = find([](const Workspace& w) { return !w.used || finished(w.done.get()); });
    if (best == idle_.end() && idle_.size() >= kMost) {
      best = find([](const Workspace&) { return true; });
      if (best == idle_.end()) {
        too_small = std::move(idle_.front());  // the new one takes its place
        idle_.erase(idle_.begin());
      }
    }
    if (best != idle_.end()) {
      found = std::move(*best);
      idle_.erase(best);
    }
  }
  if (found == nullptr) return make(images);
  if (found->used)
    wait(stream, found->done.get());  // on the same stream too: a new stream may have the old one's handle
  return found;
}

void Workspaces::give_back(std::unique_ptr<Workspace> workspace, Stream stream) {
  record(workspace->done.get(), stream);
  workspace->used = true;
  workspace->stream = stream;
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(workspace));
}

Workspace& Workspaces::keep(int images) {
  std::unique_ptr<Workspace> workspace = make(images);
  std::lock_guard<std::mutex> lock(mutex_);
  kept_.push_back(std::move(workspace));
  return *kept_.back();
}

}  // namespace faceattr::cuda
