// Finds objects in images and prints each as a line of JSON: `sample model.onnx image.ppm` (TensorRT: engine.engine).
//
// An image goes through: letterbox (its aspect kept, the rest grey; RGB, 0 to 1) -> the graph -> candidates ->
// suppress (where the graph has not done it) -> back to the image's own pixels. Constants and steps are those of
// sample.py, whose answers these are. Class names come from labels.txt beside the model.
//
// Without OpenCV it reads PPM (P6): `ffmpeg -i image.jpg image.ppm`. Where CMake finds OpenCV, it reads what that reads.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <numeric>
#include <sstream>
#include <stdexcept>

#ifdef WITH_OPENCV
#include <opencv2/imgcodecs.hpp>
#endif

#include "backend.h"

namespace {

constexpr float kMinScore = 0.25f;   // least score of a detection
constexpr float kMaxOverlap = 0.7f;  // of two boxes of one class that overlap more, the surer one stays
constexpr std::size_t kMaxFound = 300;
constexpr float kGrey = 114.f;  // what a letterbox is filled with in training

// Three bytes a pixel, red first, row by row.
struct Image {
  int width = 0, height = 0;
  std::vector<std::uint8_t> rgb;
};

// Corners in pixels.
struct Detection {
  float left, top, right, bottom, score;
  int label;
};

// Where an image lies in the input: input = image * scale + offset.
struct Placement {
  float scale_x, scale_y;
  int left, top;
};

// ------------------------------------------------------------ before the graph

// The two pixels of an axis that one of a resized image lies between, and what each weighs, in 2048ths.
struct Between {
  int first, second, first_weight, second_weight;
};

std::vector<Between> between(int size, int resized) {
  std::vector<Between> places;
  for (int index = 0; index < resized; ++index) {  // centres of pixels lie at .5
    const double at = (index + 0.5) * (static_cast<double>(size) / resized) - 0.5;
    const float inside = std::clamp(static_cast<float>(at), 0.f, static_cast<float>(size - 1));
    const int first = static_cast<int>(inside);
    const int weight = static_cast<int>(std::nearbyint((inside - first) * 2048));
    places.push_back({first, std::min(first + 1, size - 1), 2048 - weight, weight});
  }
  return places;
}

// Bilinear, in the whole numbers of OpenCV's resize: with others, one pixel in five is off by one.
void resize(const Image& image, int width, int height, int left, int top, const Backend& graph,
            std::vector<float>& planes) {
  const std::vector<Between> columns = between(image.width, width), rows = between(image.height, height);
  const std::size_t plane = graph.height * graph.width;
  for (int y = 0; y < height; ++y) {
    const std::uint8_t* upper = &image.rgb[3 * static_cast<std::size_t>(rows[y].first) * image.width];
    const std::uint8_t* lower = &image.rgb[3 * static_cast<std::size_t>(rows[y].second) * image.width];
    for (int x = 0; x < width; ++x) {
      const auto [first, second, first_weight, second_weight] = columns[x];
      for (int channel = 0; channel < 3; ++channel) {
        const int above = upper[3 * first + channel] * first_weight + upper[3 * second + channel] * second_weight;
        const int below = lower[3 * first + channel] * first_weight + lower[3 * second + channel] * second_weight;
        const int value =
            ((rows[y].first_weight * (above >> 4) >> 16) + (rows[y].second_weight * (below >> 4) >> 16) + 2) >> 2;
        planes[channel * plane + (y + top) * graph.width + x + left] = static_cast<float>(value) / 255.f;
      }
    }
  }
}

std::vector<float> letterbox(const Image& image, const Backend& graph, Placement& placement) {
  const double scale = std::min(static_cast<double>(graph.width) / image.width,
                                static_cast<double>(graph.height) / image.height);
  const int width = std::max(static_cast<int>(std::nearbyint(image.width * scale)), 1);
  const int height = std::max(static_cast<int>(std::nearbyint(image.height * scale)), 1);
  placement = {static_cast<float>(width) / image.width, static_cast<float>(height) / image.height,
               static_cast<int>(graph.width - width) / 2, static_cast<int>(graph.height - height) / 2};
  std::vector<float> planes(3 * graph.height * graph.width, kGrey / 255.f);
  resize(image, width, height, placement.left, placement.top, graph, planes);
  return planes;
}

// ------------------------------------------------------------ after the graph

// A graph in half precision may overflow: no number is no box.
void keep(const Detection& one, std::vector<Detection>& found) {
  const auto numbers = {one.left, one.top, one.right, one.bottom, one.score};
  const bool finite = std::all_of(numbers.begin(), numbers.end(), [](float value) { return std::isfinite(value); });
  if (finite && one.score > kMinScore) found.push_back(one);
}

// (4 + classes) x candidates: centre, width and height, then a score for every class.
std::vector<Detection> candidates(const Table& raw) {
  std::vector<Detection> found;
  const auto value = [&](std::int64_t row, std::int64_t column) { return raw.values[row * raw.columns + column]; };
  for (std::int64_t column = 0; column < raw.columns; ++column) {
    std::int64_t best = 4;
    for (std::int64_t row = 5; row < raw.rows; ++row) {
      if (value(row, column) > value(best, column)) best = row;
    }
    const float score = value(best, column);
    const float x = value(0, column), y = value(1, column);
    const float half_width = value(2, column) / 2, half_height = value(3, column) / 2;
    keep({x - half_width, y - half_height, x + half_width, y + half_height, score, static_cast<int>(best - 4)}, found);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Detection& one, const Detection& other) { return one.score > other.score; });
  return found;
}

float overlap(const Detection& one, const Detection& other) {
  const float width = std::min(one.right, other.right) - std::max(one.left, other.left);
  const float height = std::min(one.bottom, other.bottom) - std::max(one.top, other.top);
  if (width <= 0 || height <= 0) return 0;
  const auto area = [](const Detection& box) { return (box.right - box.left) * (box.bottom - box.top); };
  return width * height / (area(one) + area(other) - width * height);
}

// Non-maximum suppression of candidates, surest first.
std::vector<Detection> suppress(const std::vector<Detection>& sorted) {
  std::vector<Detection> kept;
  for (const Detection& one : sorted) {
    const bool covered = std::any_of(kept.begin(), kept.end(), [&](const Detection& surer) {
      return surer.label == one.label && overlap(surer, one) > kMaxOverlap;
    });
    if (!covered) kept.push_back(one);
    if (kept.size() == kMaxFound) break;
  }
  return kept;
}

// Rows of two corners, score and class, surest first: end-to-end heads and graphs with NMS inside.
std::vector<Detection> finished(const Table& rows) {
  std::vector<Detection> found;
  for (std::int64_t index = 0; index < rows.rows && found.size() < kMaxFound; ++index) {
    const float* row = &rows.values[index * rows.columns];
    const int label = row[5] >= 0 && row[5] < 1e6f ? static_cast<int>(row[5]) : -1;
    keep({row[0], row[1], row[2], row[3], row[4], label}, found);
  }
  return found;
}

std::vector<Detection> detect(const Image& image, Backend& graph, std::size_t classes) {
  Placement placement;
  const Table table = graph.run(letterbox(image, graph, placement));
  std::vector<Detection> found;
  if (table.columns == 6) {
    found = finished(table);
  } else if (table.rows == static_cast<std::int64_t>(4 + classes)) {
    found = suppress(candidates(table));
  } else {
    throw std::runtime_error("the graph gives " + std::to_string(table.rows) + " x " + std::to_string(table.columns) +
                             " values, and labels.txt has " + std::to_string(classes) + " classes: not of one model");
  }
  for (Detection& one : found) {
    if (one.label < 0 || static_cast<std::size_t>(one.label) >= classes) {
      throw std::runtime_error("class " + std::to_string(one.label) + " has no line in labels.txt");
    }
    const auto back = [](float at, int offset, float scale, int size) {
      return std::clamp((at - offset) / scale, 0.f, static_cast<float>(size));
    };
    one.left = back(one.left, placement.left, placement.scale_x, image.width);
    one.right = back(one.right, placement.left, placement.scale_x, image.width);
    one.top = back(one.top, placement.top, placement.scale_y, image.height);
    one.bottom = back(one.bottom, placement.top, placement.scale_y, image.height);
  }
  return found;
}

// ------------------------------------------------------------ files

#ifdef WITH_OPENCV
Image read(const std::string& path) {
  const cv::Mat bgr = cv::imread(path, cv::IMREAD_COLOR);
  if (bgr.empty()) throw std::runtime_error(path + ": there is no image that OpenCV reads");
  Image image{bgr.cols, bgr.rows, std::vector<std::uint8_t>(3 * bgr.total())};
  for (int y = 0; y < bgr.rows; ++y) {
    const std::uint8_t* from = bgr.ptr(y);
    std::uint8_t* to = &image.rgb[static_cast<std::size_t>(y) * bgr.cols * 3];
    for (int x = 0; x < bgr.cols; ++x, from += 3, to += 3) std::reverse_copy(from, from + 3, to);
  }
  return image;
}
#else
// A whole number of a PPM's head, behind blanks and comments.
int number(std::istream& file) {
  while (file >> std::ws && file.peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int value = 0;
  file >> value;
  return value;
}

Image read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  char magic[2] = {};
  file.read(magic, 2);
  if (std::memcmp(magic, "P6", 2) != 0) {
    throw std::runtime_error(path + ": is no PPM (P6); turn it into one, or build with OpenCV");
  }
  Image image;
  image.width = number(file);
  image.height = number(file);
  const int white = number(file);
  file.get();  // the one blank before the pixels
  constexpr int kMaxSide = 1 << 15;
  if (!file || white != 255 || image.width < 1 || image.height < 1 || image.width > kMaxSide ||
      image.height > kMaxSide) {
    throw std::runtime_error(path + ": is no PPM of 8 bits and at most 32768 pixels a side");
  }
  image.rgb.resize(static_cast<std::size_t>(image.width) * image.height * 3);
  file.read(reinterpret_cast<char*>(image.rgb.data()), static_cast<std::streamsize>(image.rgb.size()));
  if (!file) throw std::runtime_error(path + ": ends before its last pixel");
  return image;
}
#endif

std::vector<std::string> labels(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<std::string> names;
  for (std::string line; std::getline(file, line);) names.push_back(line);
  if (names.empty()) throw std::runtime_error(path.string() + ": cannot be read, or is empty");
  return names;
}

std::string quoted(const std::string& text) {
  std::ostringstream json;
  json << '"';
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') {
      json << '\\' << letter;
    } else if (static_cast<unsigned char>(letter) < 0x20) {
      json << "\\u00" << (letter < 0x10 ? '0' : '1') << "0123456789abcdef"[letter & 15];
    } else {
      json << letter;
    }
  }
  json << '"';
  return json.str();
}

// A copy of the image as PPM, its boxes in red.
void draw(Image image, const std::vector<Detection>& found, const std::filesystem::path& path) {
  const auto dot = [&](int x, int y) {
    const std::uint8_t red[] = {255, 0, 0};
    std::copy(red, red + 3, &image.rgb[(static_cast<std::size_t>(y) * image.width + x) * 3]);
  };
  for (const Detection& one : found) {
    const int left = std::min(static_cast<int>(one.left), image.width - 1);
    const int right = std::min(static_cast<int>(one.right), image.width - 1);
    const int top = std::min(static_cast<int>(one.top), image.height - 1);
    const int bottom = std::min(static_cast<int>(one.bottom), image.height - 1);
    for (int x = left; x <= right; ++x) dot(x, top), dot(x, bottom);
    for (int y = top; y <= bottom; ++y) dot(left, y), dot(right, y);
  }
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << image.width << ' ' << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(image.rgb.data()), static_cast<std::streamsize>(image.rgb.size()));
  if (!file) throw std::runtime_error(path.string() + ": cannot be written");
}

}  // namespace

int main(int count, char** words) try {
  std::vector<std::string> paths(words + 1, words + count);
  const auto wish = std::find(paths.begin(), paths.end(), "--draw");
  const bool drawn = wish != paths.end();
  if (drawn) paths.erase(wish);
  int dla = -1;
  bool understood = true;
  if (const auto core = std::find(paths.begin(), paths.end(), "--dla"); core != paths.end()) {
    const std::string number = core + 1 == paths.end() ? "" : core[1];
    understood = number.size() == 1 && number[0] >= '0' && number[0] <= '9';
    if (understood) {
      dla = number[0] - '0';
      paths.erase(core, core + 2);
    }
  }
  if (!understood || paths.size() < 2) {
    std::cerr << "usage: " << words[0] << " MODEL IMAGE... [--draw: writes IMAGE-found.ppm in this folder] "
              << "[--dla N: the engine's DLA core]\n";
    return 2;
  }
  const std::unique_ptr<Backend> graph = load(paths[0], dla);
  if (graph->channels != 3) throw std::runtime_error(paths[0] + ": takes other images than of three channels");
  const std::vector<std::string> names = labels(std::filesystem::path(paths[0]).parent_path() / "labels.txt");
  std::cout.precision(7);
  for (std::size_t index = 1; index < paths.size(); ++index) {
    const Image image = read(paths[index]);
    const std::vector<Detection> found = detect(image, *graph, names.size());
    for (const Detection& one : found) {
      std::cout << "{\"image\": " << quoted(paths[index]) << ", \"label\": " << one.label
                << ", \"name\": " << quoted(names[one.label]) << ", \"score\": " << one.score << ", \"box\": ["
                << one.left << ", " << one.top << ", " << one.right << ", " << one.bottom << "]}\n";
    }
    if (drawn) draw(image, found, std::filesystem::path(paths[index]).stem().string() + "-found.ppm");
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
