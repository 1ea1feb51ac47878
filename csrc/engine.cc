#include "engine.h"

#include <algorithm>
#include <functional>
#include <mutex>
#include <utility>

#include "cpu/cpu_features.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace faceattr {
namespace {

// Images whose vectors are kept until their heads run together: enough to reuse head weights, flat memory for any
// batch.
constexpr std::int64_t kChunk = 64;

// Counts forks: threads and locks of a parent do not exist in its child.
std::atomic<std::uint64_t> generation{0};

void watch_forks() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1); });
  (void)registered;
#endif
}

}  // namespace

// Memory of one call: arenas of a group of images and scratch per thread, one row of vectors per image of a chunk.
struct Engine::Workspace {
  Workspace(const cpu::Executor& executor, int threads, std::int64_t images)
      : vectors(executor.vector_floats() * images),
        non_finite(new std::atomic<bool>[images]),
        images(images),
        group(std::min<std::int64_t>(executor.group_images(), (images + threads - 1) / threads)) {
    for (int t = 0; t < threads; ++t) {
      arenas.emplace_back(executor.arena_floats(static_cast<int>(group)));
      scratch.emplace_back(executor.scratch_floats(static_cast<int>(group)));
    }
  }

  std::vector<AlignedBuffer> arenas, scratch;
  AlignedBuffer vectors;
  std::unique_ptr<std::atomic<bool>[]> non_finite;
  std::int64_t images, group;  // at most
};

// What belongs to one process: its threads and its idle workspaces.
class Engine::Runtime {
 public:
  Runtime(const cpu::Executor& executor, int threads) : pool(threads), executor_(executor) { idle_.reserve(kIdle); }

  // An idle workspace for at least `images` rows of vectors, or a new one. After the first calls nothing is allocated.
  std::unique_ptr<Workspace> lease(std::int64_t images) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (auto it = idle_.rbegin(); it != idle_.rend(); ++it) {
        if ((*it)->images < images) continue;
        std::unique_ptr<Workspace> found = std::move(*it);
        idle_.erase(std::next(it).base());
        return found;
      }
      if (!idle_.empty()) idle_.erase(idle_.begin());  // the new, larger one takes its place
    }
    return std::make_unique<Workspace>(executor_, pool.size(), images);
  }

  void give_back(std::unique_ptr<Workspace> workspace) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.size() < kIdle) idle_.push_back(std::move(workspace));
  }

  ThreadPool pool;
  const std::uint64_t born = generation.load();

 private:
  static constexpr std::size_t kIdle = 16;  // concurrent callers served without allocating

  const cpu::Executor& executor_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

Engine::Engine(Plan plan, const std::string& isa, int threads)
    : features_(cpu::select_features(isa)), threads_(std::max(threads, 1)), executor_(std::move(plan), features_) {
  watch_forks();
}

Engine::~Engine() {
  Runtime* runtime = runtime_.load();
  // A parent's runtime is left alone in a child: its threads cannot be joined, its locks may be held for ever.
  if (runtime != nullptr && runtime->born == generation.load()) delete runtime;
}

Engine::Runtime& Engine::runtime() const {
  Runtime* current = runtime_.load(std::memory_order_acquire);
  if (current != nullptr && current->born == generation.load(std::memory_order_acquire)) return *current;
  auto fresh = std::make_unique<Runtime>(executor_, threads_);
  if (runtime_.compare_exchange_strong(current, fresh.get())) return *fresh.release();
  return *current;  // another thread was first
}

void Engine::run(const cpu::Pixels& pixels, std::int64_t images, float* const* outputs) const {
  run(pixels, images, outputs, true, nullptr);
}

std::vector<double> Engine::profile(const cpu::Pixels& pixels, std::int64_t images, float* const* outputs,
                                    bool batched) const {
  std::vector<double> seconds(executor_.phase_count(), 0.0);
  run(pixels, images, outputs, batched, seconds.data());
  return seconds;
}

void Engine::run(const cpu::Pixels& pixels, std::int64_t images, float* const* outputs, bool batched,
                 double* seconds) const {
  if (images == 0) return;
  Runtime& current = runtime();
  std::unique_ptr<Workspace> workspace = current.lease(images == 1 ? 1 : kChunk);
  for (std::int64_t first = 0; first < images; first += kChunk) {
    run_chunk(pixels, first, std::min(kChunk, images - first), outputs, current, *workspace, batched, seconds);
  }
  current.give_back(std::move(workspace));
}

void Engine::run_chunk(const cpu::Pixels& pixels, std::int64_t first, std::int64_t images, float* const* outputs,
                       Runtime& runtime, Workspace& workspace, bool batched, double* seconds) const {
  for (std::int64_t i = 0; i < images; ++i) workspace.non_finite[i].store(false, std::memory_order_relaxed);
  const std::size_t pitch = executor_.vector_floats();
  std::atomic<std::int64_t> next{0};

  const auto work = [&](const Team& team) {
    const auto run_images = [&](std::int64_t i, std::int64_t count, const Team& by) {
      // A team of one has its own arena; a larger team shares the first.
      const int arena = by.size == 1 ? team.rank : 0;
      const cpu::ImageMemory memory = {workspace.arenas[arena].data(), workspace.scratch[team.rank].data(),
                                       workspace.vectors.data() + i * pitch};
      executor_.run_images(pixels, first + i, static_cast<int>(count), memory, outputs, &workspace.non_finite[i], by,
                           team.rank == 0 ? seconds : nullptr);
    };
    // As many images as there are whole rounds of threads are run by one thread each, without barriers, in groups of
    // nearly equal size; the rest is shared, image by image.
    const std::int64_t each = batched ? images / team.size : 0;
    const std::int64_t rounds = (each + workspace.group - 1) / workspace.group;
    // Whoever is free takes the next group; when timed, each has its turn, so that the times of one are everybody's.
    std::int64_t own = team.rank - team.size;
    const auto deal = [&] {
      return seconds != nullptr ? own += team.size : next.fetch_add(1, std::memory_order_relaxed);
    };
    for (std::int64_t g; (g = deal()) < rounds * team.size;) {
      const std::int64_t begin = each * (g / team.size) / rounds, end = each * (g / team.size + 1) / rounds;
      run_images(begin * team.size + g % team.size * (end - begin), end - begin, Team{});
    }
    team.sync();
    for (std::int64_t i = each * team.size; i < images; ++i) run_images(i, 1, team);
    executor_.run_heads(workspace.vectors.data(), images, team, seconds);
    const Team::Range share = team.share(images);
    for (std::int64_t i = share.begin; i < share.end; ++i) {
      if (workspace.non_finite[i].load(std::memory_order_relaxed)) {
        executor_.fill_nan(first + i, outputs);
      } else {
        executor_.copy_vectors(workspace.vectors.data() + i * pitch, first + i, outputs);
      }
    }
  };
  runtime.pool.run(std::cref(work));  // by reference: a std::function of its own would allocate
}

}  // namespace faceattr
