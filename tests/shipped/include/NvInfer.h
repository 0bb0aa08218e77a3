// Stand-in for TensorRT's header, as far as the C++ sample uses it. An engine is a file that a test writes: type (from
// 100 on: 100 + the DLA core that it has to be loaded on), free (1: the batch is free), shapes of input and output as
// 32-bit numbers, then the input that it expects and the output that it gives for it. Another input is an error, so is a
// call out of order.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

namespace nvinfer1 {

struct Dims {
  std::int32_t nbDims = 0;
  std::int64_t d[8] = {};
};
enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : std::int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct Plan {
  std::int32_t type = 0, free_batch = 0;
  Dims input, output;
  std::vector<float> expected, given;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(const Plan& plan) : plan_(plan), ready_(plan.free_batch == 0) {}
  bool setInputShape(const char* name, const Dims& dims) {
    ready_ = std::string(name) == "images" && std::memcmp(dims.d, plan_.input.d, 4 * sizeof dims.d[0]) == 0;
    return ready_;
  }
  Dims getTensorShape(const char* name) const {
    Dims dims = std::string(name) == "images" ? plan_.input : plan_.output;
    if (!ready_) dims.d[0] = -1;
    return dims;
  }
  bool setTensorAddress(const char* name, void* data) {
    (std::string(name) == "images" ? input_ : output_) = static_cast<float*>(data);
    return true;
  }
  bool enqueueV3(cudaStream_t stream) {
    if (!ready_ || !input_ || !output_ || !stream) return false;
    for (std::size_t index = 0; index < plan_.expected.size(); ++index) {
      if (!(std::fabs(input_[index] - plan_.expected[index]) < 1e-5f)) return false;
    }
    std::memcpy(output_, plan_.given.data(), sizeof(float) * plan_.given.size());
    return true;
  }

 private:
  const Plan& plan_;
  bool ready_;
  float *input_ = nullptr, *output_ = nullptr;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(Plan plan) : plan_(std::move(plan)) {}
  IExecutionContext* createExecutionContext() { return new IExecutionContext(plan_); }
  std::int32_t getNbIOTensors() const { return 2; }
  const char* getIOTensorName(std::int32_t index) const { return index == 0 ? "output0" : "images"; }  // any order
  TensorIOMode getTensorIOMode(const char* name) const {
    return std::string(name) == "images" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(const char*) const { return static_cast<DataType>(plan_.type); }
  Dims getTensorShape(const char* name) const {
    Dims dims = std::string(name) == "images" ? plan_.input : plan_.output;
    if (plan_.free_batch) dims.d[0] = -1;
    return dims;
  }
  Dims getProfileShape(const char*, std::int32_t, OptProfileSelector) const { return plan_.input; }

 private:
  Plan plan_;
};

class IRuntime {
 public:
  std::int32_t getNbDLACores() const noexcept { return 2; }
  void setDLACore(std::int32_t core) noexcept { core_ = core; }
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t bytes) {
    const char* from = static_cast<const char*>(data);
    std::int32_t head[9];
    if (bytes < sizeof head) return nullptr;
    std::memcpy(head, from, sizeof head);
    Plan plan;
    if (head[0] >= 100 && core_ != head[0] - 100) return nullptr;
    plan.type = head[0] < 100 ? head[0] : 0;
    plan.free_batch = head[1];
    plan.input.nbDims = 4;
    plan.output.nbDims = 3;
    std::size_t taken = 1, given = 1;
    for (int axis = 0; axis < 4; ++axis) taken *= plan.input.d[axis] = head[2 + axis];
    for (int axis = 0; axis < 3; ++axis) given *= plan.output.d[axis] = head[6 + axis];
    if (bytes != sizeof head + sizeof(float) * (taken + given)) return nullptr;
    plan.expected.resize(taken);
    plan.given.resize(given);
    std::memcpy(plan.expected.data(), from + sizeof head, sizeof(float) * taken);
    std::memcpy(plan.given.data(), from + sizeof head + sizeof(float) * taken, sizeof(float) * given);
    return new ICudaEngine(std::move(plan));
  }

 private:
  std::int32_t core_ = -1;
};

inline IRuntime* createInferRuntime(ILogger&) { return new IRuntime; }

}  // namespace nvinfer1
