// The parser behind a plain C function, for ctypes: rows of x1, y1, x2, y2, score, class. -1: the parser refused.
#include "../../../edgeprune/deploy/nvdsinfer_edgeprune.cpp"

extern "C" int call(int raw, float* buffer, unsigned int first, unsigned int second, unsigned int classes,
                    unsigned int side, float threshold, float* rows, int room) {
  NvDsInferLayerInfo layer{};
  layer.dataType = FLOAT;
  layer.inferDims.numDims = 2;
  layer.inferDims.d[0] = first;
  layer.inferDims.d[1] = second;
  layer.buffer = buffer;
  NvDsInferParseDetectionParams parameters;
  parameters.numClassesConfigured = classes;
  parameters.perClassPreclusterThreshold.assign(classes, threshold);
  std::vector<NvDsInferObjectDetectionInfo> objects;
  NvDsInferNetworkInfo network{side, side, 3};
  if (!(raw ? NvDsInferParseEdgepruneRaw : NvDsInferParseEdgepruneRows)({layer}, network, parameters, objects)) return -1;
  int count = 0;
  for (const auto& object : objects) {
    if (count == room) break;
    const float row[6] = {object.left, object.top, object.left + object.width, object.top + object.height,
                          object.detectionConfidence, static_cast<float>(object.classId)};
    std::copy(row, row + 6, rows + 6 * count++);
  }
  return count;
}
