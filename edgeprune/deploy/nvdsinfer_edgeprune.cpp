// Boxes out of an edgeprune model for DeepStream's Gst-nvinfer. Build it on the board: `make`, see README.md.
//
// Gst-nvinfer leaves the batch axis out, so a layer here has two axes. It scales the boxes back to the frame itself,
// and takes NMS over where cluster-mode=2.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <vector>

#include "nvdsinfer_custom_impl.h"

namespace {

using Layers = std::vector<NvDsInferLayerInfo>;
using Objects = std::vector<NvDsInferObjectDetectionInfo>;

const NvDsInferLayerInfo* detections(const Layers& layers, const char* function) {
  for (const auto& layer : layers) {
    if (!layer.isInput && layer.inferDims.numDims == 2 && layer.dataType == FLOAT) return &layer;
  }
  std::cerr << function << ": the engine has no float output with two axes; is it the one of this bundle?" << std::endl;
  return nullptr;
}

// Corners in input pixels; what lies outside the input, in the padding, is cut off. A graph in half precision may
// overflow: no number is no box, and a comparison with one is false.
void add(float x1, float y1, float x2, float y2, float score, unsigned int label, const NvDsInferNetworkInfo& network,
         const NvDsInferParseDetectionParams& parameters, Objects& objects) {
  if (label >= parameters.numClassesConfigured || !(score >= parameters.perClassPreclusterThreshold[label])) return;
  if (!(std::isfinite(x1) && std::isfinite(y1) && std::isfinite(x2) && std::isfinite(y2) && std::isfinite(score))) return;
  const float width = static_cast<float>(network.width), height = static_cast<float>(network.height);
  x1 = std::min(std::max(x1, 0.f), width);
  x2 = std::min(std::max(x2, 0.f), width);
  y1 = std::min(std::max(y1, 0.f), height);
  y2 = std::min(std::max(y2, 0.f), height);
  if (!(x2 > x1 && y2 > y1)) return;
  NvDsInferObjectDetectionInfo object;
  std::memset(&object, 0, sizeof object);  // later releases have more fields, an angle among them
  object.classId = label;
  object.left = x1;
  object.top = y1;
  object.width = x2 - x1;
  object.height = y2 - y1;
  object.detectionConfidence = score;
  objects.push_back(object);
}

}  // namespace

// (rows, 6): x1, y1, x2, y2, score, class, best first. End-to-end heads and graphs with NMS inside; cluster-mode=4.
extern "C" bool NvDsInferParseEdgepruneRows(const Layers& layers, const NvDsInferNetworkInfo& network,
                                            const NvDsInferParseDetectionParams& parameters, Objects& objects) {
  const NvDsInferLayerInfo* layer = detections(layers, "NvDsInferParseEdgepruneRows");
  if (!layer || layer->inferDims.d[1] < 6) return false;
  const float* row = static_cast<const float*>(layer->buffer);
  const unsigned int stride = layer->inferDims.d[1];
  for (unsigned int index = 0; index < layer->inferDims.d[0]; ++index, row += stride) {
    if (!(row[4] > 0.f)) continue;  // rows that fill up
    if (!(row[5] >= 0.f && row[5] < static_cast<float>(parameters.numClassesConfigured))) continue;
    add(row[0], row[1], row[2], row[3], row[4], static_cast<unsigned int>(row[5]), network, parameters, objects);
  }
  return true;
}

// (4 + classes, anchors): centre, width and height, then a score for every class; no NMS yet, cluster-mode=2.
extern "C" bool NvDsInferParseEdgepruneRaw(const Layers& layers, const NvDsInferNetworkInfo& network,
                                           const NvDsInferParseDetectionParams& parameters, Objects& objects) {
  const NvDsInferLayerInfo* layer = detections(layers, "NvDsInferParseEdgepruneRaw");
  if (!layer || layer->inferDims.d[0] != 4 + parameters.numClassesConfigured) return false;
  const float* value = static_cast<const float*>(layer->buffer);
  const unsigned int anchors = layer->inferDims.d[1];
  for (unsigned int anchor = 0; anchor < anchors; ++anchor) {
    unsigned int best = 0;
    for (unsigned int label = 1; label < parameters.numClassesConfigured; ++label) {
      if (value[(4 + label) * anchors + anchor] > value[(4 + best) * anchors + anchor]) best = label;
    }
    const float x = value[anchor], y = value[anchors + anchor];
    const float w = value[2 * anchors + anchor], h = value[3 * anchors + anchor];
    add(x - w / 2, y - h / 2, x + w / 2, y + h / 2, value[(4 + best) * anchors + anchor], best, network, parameters,
        objects);
  }
  return true;
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseEdgepruneRows);
CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseEdgepruneRaw);
