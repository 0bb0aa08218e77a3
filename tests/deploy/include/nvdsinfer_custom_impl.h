// Just so much of DeepStream's interface as the parser uses, so that a workstation can compile and run it. Names and
// order of fields as in NVIDIA's includes/nvdsinfer.h and nvdsinfer_custom_impl.h of DeepStream 8.
#pragma once
#include <string>
#include <vector>

typedef struct { unsigned int numDims; unsigned int d[8]; unsigned int numElements; } NvDsInferDims;
typedef enum { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3 } NvDsInferDataType;
typedef struct {
  NvDsInferDataType dataType;
  union { NvDsInferDims inferDims; NvDsInferDims dims; };
  int bindingIndex;
  const char* layerName;
  void* buffer;
  int isInput;
} NvDsInferLayerInfo;
typedef struct { unsigned int width; unsigned int height; unsigned int channels; } NvDsInferNetworkInfo;
typedef struct {
  unsigned int classId;
  float left, top, width, height, detectionConfidence;
  float rotation_angle;
} NvDsInferObjectDetectionInfo;
typedef struct {
  unsigned int numClassesConfigured;
  std::vector<float> perClassPreclusterThreshold;
  std::vector<float> perClassPostclusterThreshold;
} NvDsInferParseDetectionParams;
typedef bool (*NvDsInferParseCustomFunc)(std::vector<NvDsInferLayerInfo> const&, NvDsInferNetworkInfo const&,
                                         NvDsInferParseDetectionParams const&,
                                         std::vector<NvDsInferObjectDetectionInfo>&);
#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(f) \
  static void checkFunc_##f(NvDsInferParseCustomFunc func = f) { checkFunc_##f(); }
