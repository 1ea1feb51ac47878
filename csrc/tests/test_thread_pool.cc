#include <atomic>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"

using faceattr::Team;
using faceattr::ThreadPool;

FA_TEST(every_member_runs_once) {
  for (int size : {1, 2, 3, 5}) {
    ThreadPool pool(size);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> runs(size);
      pool.run([&](const Team& team) {
        FA_CHECK(team.size == size);
        runs[team.rank].fetch_add(1);
      });
      for (const std::atomic<int>& count : runs) FA_CHECK(count.load() == 1);
    }
  }
}

FA_TEST(a_pool_that_never_ran_can_go) { ThreadPool pool(4); }

FA_TEST(a_pool_wakes_after_sleeping) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> runs{0};
    pool.run([&](const Team&) { runs.fetch_add(1); });
    FA_CHECK(runs.load() == 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than workers spin
  }
}

FA_TEST(sync_separates_phases) {
  ThreadPool pool(3);
  std::vector<int> values(3, 0);
  for (int round = 1; round < 300; ++round) {
    pool.run([&](const Team& team) {
      values[team.rank] = round;
      team.sync();
      for (int value : values) FA_CHECK(value == round);
      team.sync();
    });
  }
}

FA_TEST(shares_cover_everything_once) {
  for (int size : {1, 2, 3, 7}) {
    for (std::int64_t items : {0, 1, 2, 6, 7, 100}) {
      std::int64_t next = 0;
      for (int rank = 0; rank < size; ++rank) {
        const Team::Range range = Team{rank, size, nullptr}.share(items);
        FA_CHECK(range.begin == next && range.end >= range.begin);
        next = range.end;
      }
      FA_CHECK(next == items);
    }
  }
}

FA_TEST(a_second_caller_runs_alone) {
  ThreadPool pool(2);
  std::atomic<int> alone{0}, together{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        pool.run([&](const Team& team) { (team.size == 1 ? alone : together).fetch_add(1); });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  FA_CHECK(alone.load() + together.load() / 2 == 800);
  FA_CHECK(together.load() % 2 == 0);
}
