// A test is a function of a program that exits non-zero where a check fails; ctest runs the programs.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace faceattr::test {

struct Test {
  const char* name;
  std::function<void()> run;
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline void fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  ++failures();
}

struct Register {
  Register(const char* name, std::function<void()> run) { tests().push_back({name, std::move(run)}); }
};

inline int run_all() {
  for (const Test& test : tests()) {
    const int before = failures();
    test.run();
    std::printf("%s %s\n", failures() == before ? "passed" : "FAILED", test.name);
  }
  if (tests().empty()) fail("run_all", 0, "no test ran");
  return failures() == 0 ? 0 : 1;
}

}  // namespace faceattr::test

#define FA_TEST(name)                                                 \
  static void name();                                                 \
  static const faceattr::test::Register register_##name(#name, name); \
  static void name()

#define FA_CHECK(condition)                                                 \
  do {                                                                      \
    if (!(condition)) faceattr::test::fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define FA_CHECK_MESSAGE(condition, message)                                                                \
  do {                                                                                                      \
    if (!(condition)) faceattr::test::fail(__FILE__, __LINE__, std::string(#condition) + ": " + (message)); \
  } while (false)

#define FA_CHECK_THROWS(type, expression)                                                    \
  do {                                                                                       \
    bool thrown = false;                                                                     \
    try {                                                                                    \
      (void)(expression);                                                                    \
    } catch (const type&) {                                                                  \
      thrown = true;                                                                         \
    }                                                                                        \
    if (!thrown) faceattr::test::fail(__FILE__, __LINE__, #expression " must throw " #type); \
  } while (false)

int main() { return faceattr::test::run_all(); }
