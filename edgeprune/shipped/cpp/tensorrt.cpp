// TensorRT 8.5 and newer: the bare engine, on the board and the TensorRT that built it.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>

#include "backend.h"

namespace {

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::cerr << "TensorRT: " << message << std::endl;
  }
};

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t bytes) { check(cudaMalloc(&data_, bytes)); }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

class TensorRt : public Backend {
 public:
  TensorRt(const std::string& path, int dla) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    if (bytes.empty()) throw std::runtime_error(path + ": cannot be read, or is empty");
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (runtime_ && dla >= 0) {  // an engine does not say which core it is to run on
      if (dla >= runtime_->getNbDLACores()) {
        throw std::runtime_error("--dla " + std::to_string(dla) + ": there are " +
                                 std::to_string(runtime_->getNbDLACores()) + " DLA cores here, counted from 0");
      }
      runtime_->setDLACore(dla);
    }
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (!engine_) throw std::runtime_error(path + ": is no bare engine of this TensorRT and this GPU (one for a DLA: --dla N)");
    context_.reset(engine_->createExecutionContext());
    if (!context_) throw std::runtime_error(path + ": there is not enough memory to run it");

    for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
      const std::string name = engine_->getIOTensorName(index);
      const bool takes = engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
      std::string& ours = takes ? input_ : output_;
      if (!ours.empty()) throw std::runtime_error(path + ": has more than one input and one output; detect has not");
      if (engine_->getTensorDataType(name.c_str()) != nvinfer1::DataType::kFLOAT) {
        throw std::runtime_error(path + ": " + name + " is not float32");
      }
      ours = name;
    }
    if (input_.empty() || output_.empty()) throw std::runtime_error(path + ": has no input or no output");
    nvinfer1::Dims taken = engine_->getTensorShape(input_.c_str());
    if (taken.nbDims != 4) throw std::runtime_error(path + ": takes no image (batch, channels, height, width)");
    if (std::any_of(taken.d, taken.d + 4, [](std::int64_t size) { return size < 0; })) {
      taken = engine_->getProfileShape(input_.c_str(), 0, nvinfer1::OptProfileSelector::kOPT);
    }
    if (!context_->setInputShape(input_.c_str(), taken)) throw std::runtime_error(path + ": refuses its own shape");
    given_ = context_->getTensorShape(output_.c_str());
    if (given_.nbDims != 3) throw std::runtime_error(path + ": gives no table for each image");
    batch = taken.d[0];
    channels = taken.d[1];
    height = taken.d[2];
    width = taken.d[3];
    in_ = std::make_unique<DeviceBuffer>(sizeof(float) * batch * channels * height * width);
    out_ = std::make_unique<DeviceBuffer>(sizeof(float) * given_.d[0] * given_.d[1] * given_.d[2]);
    check(cudaMemset(in_->data(), 0, sizeof(float) * batch * channels * height * width));
    check(cudaStreamCreate(&stream_));
    context_->setTensorAddress(input_.c_str(), in_->data());
    context_->setTensorAddress(output_.c_str(), out_->data());
  }

  ~TensorRt() override {
    if (stream_) cudaStreamDestroy(stream_);
  }

  Table run(const std::vector<float>& pixels) override {
    Table table{given_.d[1], given_.d[2], std::vector<float>(given_.d[1] * given_.d[2])};
    const std::size_t taken = sizeof(float) * pixels.size(), given = sizeof(float) * table.values.size();
    check(cudaMemcpyAsync(in_->data(), pixels.data(), taken, cudaMemcpyHostToDevice, stream_));
    if (!context_->enqueueV3(stream_)) throw std::runtime_error("TensorRT did not run the engine");
    check(cudaMemcpyAsync(table.values.data(), out_->data(), given, cudaMemcpyDeviceToHost, stream_));
    check(cudaStreamSynchronize(stream_));
    return table;
  }

 private:
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::unique_ptr<DeviceBuffer> in_, out_;
  cudaStream_t stream_ = nullptr;
  nvinfer1::Dims given_{};
  std::string input_, output_;
};

}  // namespace

std::unique_ptr<Backend> load(const std::string& path, int dla) { return std::make_unique<TensorRt>(path, dla); }
