// The shapes of real models, by name. Declared here for synth.cc alone.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "hosts/native/synth.h"

namespace sluice {

struct NamedShape {
  std::string_view name;
  std::vector<SynthTensor> (*make)();
};

std::span<const NamedShape> named_shapes();

}  // namespace sluice
