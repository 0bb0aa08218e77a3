// ONNX Runtime, on the CPU. For a GPU append its provider to `options`, see onnxruntime.ai/docs/execution-providers.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <stdexcept>

#include "backend.h"

namespace {

class OnnxRuntime : public Backend {
 public:
  explicit OnnxRuntime(const std::string& path)
      : session_(environment_, std::filesystem::path(path).c_str(), Ort::SessionOptions{}) {
    Ort::AllocatorWithDefaultOptions allocator;
    if (session_.GetInputCount() != 1) throw std::runtime_error(path + ": takes more than one input");
    input_ = session_.GetInputNameAllocated(0, allocator).get();
    output_ = session_.GetOutputNameAllocated(0, allocator).get();

    const Ort::ModelMetadata metadata = session_.GetModelMetadata();
    const auto entry = [&](const char* key) {
      const auto value = metadata.LookupCustomMetadataMapAllocated(key, allocator);
      return std::string(value ? value.get() : "");
    };
    if (const std::string task = entry("task"); task != "detect") {
      throw std::runtime_error(path + ": its metadata names the task '" + task +
                               "'; this sample runs detect, sample.py runs the others");
    }
    const Ort::TypeInfo type = session_.GetInputTypeInfo(0);
    const auto info = type.GetTensorTypeAndShapeInfo();
    const std::vector<std::int64_t> shape = info.GetShape();
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || shape.size() != 4) {
      throw std::runtime_error(path + ": takes no float32 image (batch, channels, height, width)");
    }
    batch = std::max<std::int64_t>(shape[0], 1);  // an axis of any size is -1
    channels = shape[1];
    height = shape[2];
    width = shape[3];
    if (height < 0 || width < 0) {
      long long said[2];
      if (std::sscanf(entry("imgsz").c_str(), "[%lld, %lld]", &said[0], &said[1]) != 2) {
        throw std::runtime_error(path + ": says its size neither by its shape nor in its metadata");
      }
      height = said[0];
      width = said[1];
    }
  }

  Table run(const std::vector<float>& pixels) override {
    std::vector<float> values(batch * pixels.size());
    std::copy(pixels.begin(), pixels.end(), values.begin());
    const std::int64_t shape[] = {batch, channels, height, width};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto image = Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape, 4);
    const char *input = input_.c_str(), *output = output_.c_str();
    const auto outputs = session_.Run(Ort::RunOptions{}, &input, &image, 1, &output, 1);
    const auto info = outputs[0].GetTensorTypeAndShapeInfo();
    const std::vector<std::int64_t> given = info.GetShape();
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || given.size() != 3) {
      throw std::runtime_error(output_ + ": is no float32 table for each image");
    }
    const float* first = outputs[0].GetTensorData<float>();
    return {given[1], given[2], std::vector<float>(first, first + given[1] * given[2])};
  }

 private:
  Ort::Env environment_{ORT_LOGGING_LEVEL_WARNING, "sample"};
  Ort::Session session_;
  std::string input_, output_;
};

}  // namespace

std::unique_ptr<Backend> load(const std::string& path, int dla) {
  if (dla >= 0) throw std::runtime_error("--dla: ONNX Runtime runs nothing on a DLA; build with -DBACKEND=tensorrt");
  return std::make_unique<OnnxRuntime>(path);
}
