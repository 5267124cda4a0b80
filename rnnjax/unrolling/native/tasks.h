// Tasks in stages for the threads of XLA's pool, and memory that is kept from call to call.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>
#include <sched.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

static inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A thread that gives up its core may get it back after milliseconds only, so it does not do so at once.
static void wait_for(const std::atomic<long>& done, long tasks) {
  for (int turn = 0; done.load() < tasks; turn++)
    if (turn < 5000) pause_briefly();
    else sched_yield();
}

// Tasks are claimed in order by whoever is free, and one begins when all stages before its own are done. The caller
// takes part, so that it waits for no thread that has not begun: with a busy pool it does all of them itself.
class Team {
 public:
  explicit Team(const std::vector<long>& sizes) {
    for (long size : sizes) first_.push_back(first_.back() + size);
  }
  template <class Task>
  void work(const Task& task) {
    for (size_t stage = 0;;) {
      long id = next_.fetch_add(1);
      if (id >= first_.back()) return;
      while (id >= first_[stage + 1]) stage++;
      wait(first_[stage]);
      try {
        task((int)stage, id - first_[stage]);
      } catch (const std::bad_alloc&) {  // a thread of the pool has nobody to tell
        lacks_memory_.store(true);
      }
      done_.fetch_add(1);
    }
  }
  void wait() {
    wait(first_.back());
    if (lacks_memory_.load()) throw std::bad_alloc();
  }

 private:
  void wait(long tasks) { wait_for(done_, tasks); }
  std::atomic<long> next_{0}, done_{0};
  std::atomic<bool> lacks_memory_{false};
  std::vector<long> first_{0};
};

// Steps of several shares each, of which one begins when all of the step before are done. A thread takes its own share,
// whose data are in its cache, and then any that nobody has taken, so that it waits for no thread that has not begun.
class Steps {
 public:
  Steps(long steps, long shares) : steps_(steps), shares_(shares), state_(std::make_unique<State[]>(shares + 2)) {}
  template <class Task>
  void work(long own, const Task& task) {
    std::atomic<long>&done = state_[shares_].count, &lacking = state_[shares_ + 1].count;
    for (long step = done.load() / shares_; step < steps_; step++) {
      for (long i = 0; i < shares_; i++) {
        const long share = (own + i) % shares_;
        long taken = step;
        if (!state_[share].count.compare_exchange_strong(taken, step + 1)) continue;
        try {
          task(step, share);
        } catch (const std::bad_alloc&) {  // others wait for the share
          lacking.store(1);
        }
        done.fetch_add(1);
      }
      wait_for(done, (step + 1) * shares_);
    }
    if (lacking.load()) throw std::bad_alloc();
  }

 private:
  struct alignas(64) State {
    std::atomic<long> count{0};
  };
  long steps_, shares_;
  std::unique_ptr<State[]> state_;  // of each share the steps that were taken, then how many of all are done, and whether memory was lacking
};

constexpr long WORTH_A_THREAD = 1 << 18;  // multiplications, which take about as long as a thread to wake up

// Calls task(stage, number) for so many tasks of each stage, which are so many multiplications in all.
template <class Task>
void run(ffi::ThreadPool& threads, long work, const std::vector<long>& sizes, Task task) {
  auto team = std::make_shared<Team>(sizes);  // a thread may begin after the caller has returned
  const long most = std::min<long>(threads.num_threads(), *std::max_element(sizes.begin(), sizes.end()));
  const long helpers = std::min(most - 1, work / WORTH_A_THREAD);
  for (long i = 0; i < helpers; i++) threads.Schedule([team, task]() { team->work(task); });
  team->work(task);
  team->wait();
}

constexpr size_t PAGE = 1 << 21, MOST_KEPT = 1 << 28;

// Asks for large pages, of which new ones are mapped much faster.
static void in_large_pages(void* begin, size_t bytes) {
#if defined(__linux__)
  uintptr_t low = ((uintptr_t)begin + PAGE - 1) / PAGE * PAGE, high = ((uintptr_t)begin + bytes) / PAGE * PAGE;
  if (high > low) madvise((void*)low, high - low, MADV_HUGEPAGE);
#endif
}

// Scratch memory, kept for the next call that needs as much.
class Scratch {
 public:
  explicit Scratch(size_t floats) : bytes_(std::max(PAGE, (floats * 4 + PAGE - 1) / PAGE * PAGE)) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto each = kept_.begin(); each != kept_.end(); ++each)
      if (each->first == bytes_) {
        p = each->second;
        kept_.erase(each);
        kept_bytes_ -= bytes_;
        return;
      }
    p = (float*)aligned_alloc(PAGE, bytes_);
    if (!p) throw std::bad_alloc();
    in_large_pages(p, bytes_);
  }
  ~Scratch() {
    std::lock_guard<std::mutex> lock(mutex_);
    kept_.push_back({bytes_, p});
    kept_bytes_ += bytes_;
    while (kept_bytes_ > MOST_KEPT || kept_.size() > 16) {
      kept_bytes_ -= kept_.front().first;
      free(kept_.front().second);
      kept_.erase(kept_.begin());
    }
  }
  Scratch(const Scratch&) = delete;
  float* p;

 private:
  size_t bytes_;
  inline static std::mutex mutex_;
  inline static std::vector<std::pair<size_t, float*>> kept_;
  inline static size_t kept_bytes_ = 0;
};
