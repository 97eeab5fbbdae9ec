// Replays a bundle's golden trace: observations are built from the recorded readings and compared with the recorded ones, targets
// are computed from the recorded actions (the network itself is not run here) and printed.
//
//   gaussgym-deploy describe BUNDLE --output policy_description.h --trace trace.txt
//   g++ -std=c++17 -O2 -Wall -Wextra -Werror -I. deploy/cpp/replay.cpp -o replay && ./replay trace.txt > targets.txt
//
// Exit status 1 when an observation differs by more than 1e-5, 2 when the trace cannot be read.
#include "policy_description.h"

#include "gaussgym_policy.hpp"

#include <cstdio>
#include <fstream>
#include <iostream>

namespace {

template <class Array>
bool read(std::istream& in, Array& values) {
  for (auto& value : values) {
    if (!(in >> value)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s trace.txt\n", argv[0]);
    return 2;
  }
  std::ifstream in(argv[1]);
  gaussgym::ObservationBuilder observation;
  gaussgym::CommandLimits limits;
  gaussgym::Readings readings;
  std::array<float, gaussgym::policy::kJoints> actions{};
  std::array<float, gaussgym::policy::kProprio> recorded{};
  double reset = 0.0, worst = 0.0;
  int steps = 0;
  for (; in >> reset; ++steps) {
    if (!read(in, readings.joint_pos) || !read(in, readings.joint_vel) || !read(in, readings.quat_wxyz) ||
        !read(in, readings.ang_vel_b) || !read(in, readings.command) || !read(in, actions) || !read(in, recorded)) {
      std::fprintf(stderr, "%s: step %d is cut short\n", argv[1], steps);
      return 2;
    }
    if (reset != 0.0) {
      observation.reset();
      limits.reset();
    }
    const auto& built = observation.build(readings);
    for (int i = 0; i < gaussgym::policy::kProprio; ++i) {
      worst = std::fmax(worst, std::fabs(static_cast<double>(built[i]) - static_cast<double>(recorded[i])));
    }
    if (!gaussgym::CommandLimits::finite(actions)) {
      std::fprintf(stderr, "%s: step %d holds actions that are not finite\n", argv[1], steps);
      return 2;
    }
    const auto clipped = gaussgym::CommandLimits::limit_action(actions);
    observation.set_last_action(clipped);
    for (double q : limits.target(clipped, readings)) std::printf("%.17g ", q);
    for (float value : built) std::printf("%.9g ", static_cast<double>(value));
    std::printf("\n");
  }
  if (steps == 0 || !in.eof()) {
    std::fprintf(stderr, "%s: no trace of this policy\n", argv[1]);
    return 2;
  }
  std::fprintf(stderr, "%d steps, observations differ by at most %.3g\n", steps, worst);
  return worst <= 1e-5 ? 0 : 1;
}
