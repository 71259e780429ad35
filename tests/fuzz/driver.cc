// Runs a libFuzzer target where there is no libFuzzer (GCC): first the corpus, then changed copies of
// it. What is made depends on SEED and the number of the run only, so that a crash can be had again:
//
//     fuzz_migrate_tree CORPUS RUNS [SEED [FIRST]]
//
// RUNS is a number, or a time such as 10s.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

char current[200];  // for the signal handler

void tell_which(int signal) {
  for (const char* c = current; *c != '\0'; ++c) (void)!::write(STDERR_FILENO, c, 1);
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

class Mutator {
 public:
  Mutator(const std::vector<std::string>& corpus, uint64_t seed) : corpus_(corpus), random_(seed) {}

  std::string make() {
    std::string input = corpus_[below(corpus_.size())];
    for (size_t changes = 1 + below(4); changes > 0; --changes) change(input);
    return input;
  }

 private:
  size_t below(size_t end) { return random_() % std::max<size_t>(end, 1); }

  void change(std::string& input) {
    size_t at = below(input.size() + 1), length = below(std::min<size_t>(input.size() - at, 64) + 1);
    switch (below(6)) {
      case 0:
        input.erase(at, length);
        break;
      case 1:
        input.insert(below(input.size() + 1), input.substr(at, length));
        break;
      case 2: {
        const std::string& other = corpus_[below(corpus_.size())];
        size_t from = below(other.size());
        input.insert(at, other, from, below(other.size() - from + 1));
        break;
      }
      case 3: {
        static constexpr uint64_t kNumbers[] = {0,    1,          2,          0x7f,       0x80,
                                                0xff, 0x7fffffff, 0xffffffff, 1ULL << 63, ~0ULL};
        uint64_t number = kNumbers[below(std::size(kNumbers))];
        size_t width = size_t{1} << below(4);
        for (size_t i = 0; i < width && at + i < input.size(); ++i)
          input[at + i] = static_cast<char>(number >> (8 * i));
        break;
      }
      case 4:
        if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      default:
        if (at < input.size()) input[at] = static_cast<char>(random_());
    }
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_;
};

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s CORPUS RUNS [SEED [FIRST]]\n", argv[0]);
    return 2;
  }
  char* unit = nullptr;
  uint64_t runs = std::strtoull(argv[2], &unit, 0);
  auto end = std::chrono::steady_clock::time_point::max();
  if (*unit == 's') {
    end = std::chrono::steady_clock::now() + std::chrono::seconds(runs);
    runs = ~0ULL;
  }
  uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 0) : 1;
  uint64_t first = argc > 4 ? std::strtoull(argv[4], nullptr, 0) : 0;
  for (int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE}) ::signal(signal, tell_which);

  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) paths.push_back(entry.path());
  std::ranges::sort(paths);
  std::vector<std::string> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    std::snprintf(current, sizeof current, "in the corpus: %s\n", path.filename().c_str());
    run(corpus.back());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "there is no corpus in %s\n", argv[1]);
    return 1;
  }
  uint64_t done = 0;
  for (uint64_t i = first; done < runs && std::chrono::steady_clock::now() < end; ++i, ++done) {
    std::snprintf(current, sizeof current, "again: %s %s 1 %llu %llu\n", argv[0], argv[1],
                  static_cast<unsigned long long>(seed), static_cast<unsigned long long>(i));
    run(Mutator(corpus, seed * 0x9e3779b97f4a7c15 + i).make());
  }
  std::printf("%zu inputs of the corpus, %llu changed ones\n", corpus.size(),
              static_cast<unsigned long long>(done));
}
