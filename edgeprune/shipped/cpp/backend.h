// What runs the graph: ONNX Runtime (onnxruntime.cpp) or TensorRT (tensorrt.cpp), as CMake was told.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// One output of the graph for one image, without the batch: rows x columns float32 values, row by row.
struct Table {
  std::int64_t rows = 0, columns = 0;
  std::vector<float> values;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // One image as the graph takes it: `channels` planes of `height` x `width` values from 0 to 1. In a graph that takes
  // several images a run, the others stay black.
  virtual Table run(const std::vector<float>& pixels) = 0;

  std::int64_t batch = 1, channels = 3, height = 0, width = 0;
};

// Loads model.onnx, or the engine of the machine that built it, one for a DLA on core `dla` of it (-1: the GPU alone);
// throws std::runtime_error where that cannot be.
std::unique_ptr<Backend> load(const std::string& path, int dla);
