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
      task((int)stage, id - first_[stage]);
      done_.fetch_add(1);
    }
  }
  void wait() { wait(first_.back()); }

 private:
  void wait(long tasks) {
    for (int turn = 0; done_.load() < tasks; turn++)
      if (turn > 2000) sched_yield();
  }
  std::atomic<long> next_{0}, done_{0};
  std::vector<long> first_{0};
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
  explicit Scratch(size_t floats) : bytes_((floats * 4 + PAGE - 1) / PAGE * PAGE) {
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
