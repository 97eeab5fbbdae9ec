// What a C++17 stack needs around a bundle's networks: the observation and the limits on commands, as gaussgym_deploy has them.
//
// Include the header that `gaussgym-deploy describe BUNDLE --output policy_description.h` wrote before this one. No allocation,
// no exception; all angles in rad, quaternions wxyz (base to world), base +X forward, +Y left, +Z up. The networks themselves
// (policy.onnx, encoder.onnx) run in any ONNX runtime: h_in of a step is h_out of the one before, zero after a reset.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

namespace gaussgym {

using Joints = std::array<double, policy::kJoints>;

// What the robot measured at one moment, and what it is asked to do: v_x, v_y [m/s], yaw rate [rad/s].
struct Readings {
  Joints joint_pos{};
  Joints joint_vel{};
  std::array<double, 4> quat_wxyz{1.0, 0.0, 0.0, 0.0};
  std::array<double, 3> ang_vel_b{};
  std::array<double, 3> command{};
};

constexpr bool known(std::string_view name) {
  return name == "ang_vel_b" || name == "gravity_b" || name == "command" || name == "joint_pos_offset" ||
         name == "joint_vel" || name == "last_action";
}

constexpr bool all_terms_known() {
  for (const Term& term : policy::kTerm) {
    if (!known(term.name)) return false;
  }
  return true;
}
static_assert(all_terms_known(), "the policy reads an observation term that this header does not have");

// Fills the network's input `proprio`, in single precision as in training.
class ObservationBuilder {
 public:
  // Begin an episode. Set the hidden state of the policy network to zero as well.
  void reset() { last_action_.fill(0.0F); }

  // The policy's action after the clip (`limit_action`), before its scale: what the next observation shows as last_action.
  void set_last_action(const std::array<float, policy::kJoints>& clipped) { last_action_ = clipped; }

  const std::array<float, policy::kProprio>& build(const Readings& r) {
    for (const Term& term : policy::kTerm) {
      for (int i = 0; i < term.size; ++i) {
        const auto scale = static_cast<float>(policy::kTermScale[term.first + i]);
        const float scaled = value(term.name, i, r) * scale;
        const auto clip = static_cast<float>(term.clip);
        proprio_[term.first + i] = std::clamp(scaled, -clip, clip);
      }
    }
    return proprio_;
  }

 private:
  float value(std::string_view name, int i, const Readings& r) const {
    if (name == "ang_vel_b") return static_cast<float>(r.ang_vel_b[i]);
    if (name == "gravity_b") return static_cast<float>(gravity_b(i, r.quat_wxyz));
    if (name == "command") return static_cast<float>(r.command[i]);
    if (name == "joint_pos_offset") return static_cast<float>(r.joint_pos[i] - policy::kDefaultJointPosRad[i]);
    if (name == "joint_vel") return static_cast<float>(r.joint_vel[i]);
    return last_action_[i];
  }

  // World's down direction in base axes: minus the third row of the rotation base to world.
  static double gravity_b(int i, const std::array<double, 4>& q) {
    const auto [w, x, y, z] = q;
    if (i == 0) return 2.0 * (w * y - x * z);
    if (i == 1) return -2.0 * (w * x + y * z);
    return 2.0 * (x * x + y * y) - 1.0;
  }

  std::array<float, policy::kProprio> proprio_{};
  std::array<float, policy::kJoints> last_action_{};
};

// From the network's actions to position targets that may be sent, with kKpNmPerRad and kKdNmsPerRad, for one control period.
// Check for NaN before (`finite`) and damp instead: kp 0, kd 3, sent again in every period.
class CommandLimits {
 public:
  // Begin an episode: the first target may be anywhere.
  void reset() { has_target_ = false; }

  static bool finite(const std::array<float, policy::kJoints>& actions) {
    return std::all_of(actions.begin(), actions.end(), [](float a) { return std::isfinite(a); });
  }

  static std::array<float, policy::kJoints> limit_action(std::array<float, policy::kJoints> actions) {
    const auto clip = static_cast<float>(policy::kActionClip);
    for (float& a : actions) a = std::clamp(a, -clip, clip);
    return actions;
  }

  // Target of each joint for clipped actions: within joint limits, torque reach and rate, in this order.
  const Joints& target(const std::array<float, policy::kJoints>& clipped, const Readings& r) {
    using namespace policy;
    for (int j = 0; j < kJoints; ++j) {
      double q = kDefaultJointPosRad[j] + kActionScaleRad[j] * static_cast<double>(clipped[j]);
      q = std::clamp(q, kJointPosLowerRad[j] - kTargetMarginRad, kJointPosUpperRad[j] + kTargetMarginRad);
      if (kKpNmPerRad[j] > 0.0) {  // kp (q - joint_pos) - kd joint_vel = +-torque
        const double centre = r.joint_pos[j] + kKdNmsPerRad[j] / kKpNmPerRad[j] * r.joint_vel[j];
        const double reach = kTorqueFactor * kTorqueLimitNm[j] / kKpNmPerRad[j];
        q = std::clamp(q, centre - reach, centre + reach);
      }
      if (has_target_) {
        const double step = kTargetRateRadS / kControlHz;
        q = std::clamp(q, target_[j] - step, target_[j] + step);
      }
      target_[j] = q;
    }
    has_target_ = true;
    return target_;
  }

 private:
  Joints target_{};
  bool has_target_ = false;
};

}  // namespace gaussgym
