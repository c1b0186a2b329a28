// Rows of labels and features: read from lines of text, packed as records of a database, joined as batches.
//
// A record, little-endian, packed: "BXC" and the version, 1; int32 L, the number of labels; int32 S, of features; int32
// labels[L], rising; int32 indices[S], rising; float32 values[S].
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "cpu.h"

namespace BREW_ISA {
namespace rows {

constexpr char kMagic[4] = {'B', 'X', 'C', 1};
constexpr long kHead = 12;                       // bytes before the labels
enum Fault { kNone, kLabel, kLabelRange, kFeature, kFeatureRange, kNotFinite };
enum Repair { kBlank, kSorted, kLabelTwice, kFeatureTwice, kLabelsOut, kFeaturesOut, kNotFiniteOut, kRepairs };

inline bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f'; }
inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A whole number, perhaps with a sign, that takes all of [p, end); large ones become 2^40 or more. False for other
// text.
bool read_whole(const char* p, const char* end, long& value) {
  const bool minus = p < end && *p == '-';
  if (p < end && (*p == '-' || *p == '+')) ++p;
  if (p == end) return false;
  value = 0;
  for (; p < end; ++p) {
    if (!is_digit(*p)) return false;
    if (value < 1L << 40) value = 10 * value + (*p - '0');
  }
  if (minus) value = -value;
  return true;
}

// A decimal number that takes all of [p, end). The nearest double by one division where digits and power of ten are
// exact (Clinger 1990), as nearly always; otherwise by the library.
bool read_decimal(const char* p, const char* end, float& value) {
  static constexpr double powers[] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                      1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
  if (p < end && *p == '+') {
    ++p;
    if (p < end && *p == '-') return false;
  }
  const char* at = p;
  const bool minus = at < end && *at == '-';
  at += minus;
  long digits = 0, count = 0, behind = 0;
  for (; at < end && is_digit(*at) && count < 16; ++at, ++count) digits = 10 * digits + (*at - '0');
  if (at < end && *at == '.')
    for (++at; at < end && is_digit(*at) && count < 16; ++at, ++count, ++behind) digits = 10 * digits + (*at - '0');
  if (at == end && count && count < 16) {
    const double v = (double)digits / powers[behind];
    value = (float)(minus ? -v : v);
    return true;
  }
  double v = 0;
  const auto [stop, error] = std::from_chars(p, end, v);
  if (stop != end || error == std::errc::invalid_argument) return false;
  if (error == std::errc::result_out_of_range) {
    const char* const e = std::find_if(p, end, [](char c) { return c == 'e' || c == 'E'; });
    const char* const point = std::find(p, e, '.');
    const char* const first = std::find_if(p, e, [](char c) { return c >= '1' && c <= '9'; });
    long power = 0;
    if (e < end) read_whole(e + 1, end, power);
    const bool small = power + (point - first) < 0;          // 1e-400, and 0.00...
    v = small ? 0 : std::numeric_limits<double>::infinity();
  }
  value = (float)v;
  return true;
}

struct Rows {                                    // what a text holds
  std::vector<int> label_counts, feature_counts, labels, index;
  std::vector<float> values;
  long repairs[kRepairs] = {};
  Fault fault = kNone;                           // the first one, which ends the reading, and where:
  long line = 0, begin = 0, end = 0;             // the line's number in the text, counted from 0; offsets
};

struct RowParser {
  const char* text;
  long labels, features, label_base, feature_base;      // how many there may be, and what the first one is called
  bool repair;
  Rows out;
  std::vector<std::pair<int, float>> row;

  bool fail(Fault fault, const char* begin, const char* end) {
    out.fault = fault;
    out.begin = begin - text;
    out.end = end - text;
    return false;
  }

  bool read_labels(const char* p, const char* end) {
    const size_t first = out.labels.size();
    for (bool more = true; more;) {
      const char* comma = std::find(p, end, ',');
      long v;
      if (!read_whole(p, comma, v)) return fail(kLabel, p, comma);
      v -= label_base;
      if (v >= 0 && v < labels) out.labels.push_back((int)v);
      else if (repair) ++out.repairs[kLabelsOut];
      else return fail(kLabelRange, p, comma);
      more = comma < end;
      p = comma + more;
    }
    std::sort(out.labels.begin() + first, out.labels.end());
    const auto last = std::unique(out.labels.begin() + first, out.labels.end());
    out.repairs[kLabelTwice] += out.labels.end() - last;
    out.labels.erase(last, out.labels.end());
    return true;
  }

  bool read_feature(const char* p, const char* end) {
    const char* colon = std::find(p, end, ':');
    long v;
    float value;
    if (colon == end || !read_whole(p, colon, v) || !read_decimal(colon + 1, end, value)) return fail(kFeature, p, end);
    v -= feature_base;
    if (v < 0 || v >= features) {
      if (!repair) return fail(kFeatureRange, p, end);
      ++out.repairs[kFeaturesOut];
    } else if (!std::isfinite(value)) {
      if (!repair) return fail(kNotFinite, p, end);
      ++out.repairs[kNotFiniteOut];
    } else row.push_back({(int)v, value});
    return true;
  }

  // The features in rising order, each once: those of one index are added.
  bool finish_row(const char* begin, const char* end) {
    const auto before = [](const auto& a, const auto& b) { return a.first < b.first; };
    if (!std::is_sorted(row.begin(), row.end(), before)) {
      ++out.repairs[kSorted];
      std::stable_sort(row.begin(), row.end(), before);
    }
    const size_t first = out.index.size();
    for (const auto& [index, value] : row)
      if (out.index.size() > first && out.index.back() == index) {
        out.values.back() += value;
        ++out.repairs[kFeatureTwice];
        if (!std::isfinite(out.values.back())) {
          if (!repair) return fail(kNotFinite, begin, end);
          ++out.repairs[kNotFiniteOut];
          out.values.back() = 0;
        }
      } else {
        out.index.push_back(index);
        out.values.push_back(value);
      }
    out.feature_counts.push_back((int)(out.index.size() - first));
    return true;
  }

  bool read_line(const char* p, const char* end) {
    end = std::find(p, end, '#');
    const char* const begin = p;
    while (end > p && is_space(end[-1])) --end;
    if (p == end) {
      ++out.repairs[kBlank];
      return true;
    }
    const size_t labels_before = out.labels.size();
    const char* stop = std::find_if(p, end, is_space);
    if (stop > p && std::find(p, stop, ':') == stop) {
      if (!read_labels(p, stop)) return false;
      p = stop;
    }
    row.clear();
    while (p < end) {
      if (is_space(*p)) { ++p; continue; }
      stop = std::find_if(p, end, is_space);
      if (!read_feature(p, stop)) return false;
      p = stop;
    }
    out.label_counts.push_back((int)(out.labels.size() - labels_before));
    return finish_row(begin, end);
  }

  void read(long size) {
    const char *p = text, *const end = text + size;
    for (; p < end; ++out.line) {
      const char* line_end = (const char*)std::memchr(p, '\n', end - p);
      if (!line_end) line_end = end;
      if (!read_line(p, line_end)) return;
      p = line_end + 1;
    }
  }
};

template <class T>
py::array_t<T> as_array(const std::vector<T>& v) { return py::array_t<T>((py::ssize_t)v.size(), v.data()); }

struct Record {                                  // seen as bytes: nothing in it is aligned
  const char* at;
  long labels, features;
  int label(long i) const { return load<int>(kHead + 4 * i); }
  int index(long i) const { return load<int>(kHead + 4 * (labels + i)); }
  float value(long i) const { return load<float>(kHead + 4 * (labels + features + i)); }
  template <class T>
  T load(long offset) const { T v; std::memcpy(&v, at + offset, sizeof v); return v; }
};

// Why the bytes are no record, or nothing.
const char* open_record(const char* bytes, long size, Record& r) {
  if (size < kHead || std::memcmp(bytes, kMagic, 3))
    return "it is no row of labels and features, as brew convert_xc writes them";
  if (bytes[3] != kMagic[3]) return "it has a version that this brew does not know";
  r.at = bytes;
  r.labels = r.load<int>(4);
  r.features = r.load<int>(8);
  if (r.labels < 0 || r.features < 0 || size != kHead + 4 * (r.labels + 2 * r.features))
    return "it is cut off or damaged: its length is not what it says";
  for (long i = 0; i < r.labels; ++i)
    if (r.label(i) < 0 || (i && r.label(i) <= r.label(i - 1))) return "it is damaged: its labels do not rise";
  for (long i = 0; i < r.features; ++i) {
    if (r.index(i) < 0 || (i && r.index(i) <= r.index(i - 1))) return "it is damaged: its indices do not rise";
    if (!std::isfinite(r.value(i))) return "it is damaged: a value is not finite";
  }
  return nullptr;
}

Record record_of(const py::bytes& bytes, const char*& why) {
  char* p;
  Py_ssize_t n;
  PyBytes_AsStringAndSize(bytes.ptr(), &p, &n);
  Record r{};
  why = open_record(p, n, r);
  return r;
}

// Throws unless the counts of the rows are sound, and add up to n.
void check_row_counts(const Ints& counts, long n) {
  long sum = 0;
  for (long i = 0; i < counts.size(); ++i) {
    require(counts.data()[i] >= 0, "a negative count");
    sum += counts.data()[i];
  }
  require(sum == n, "the counts of the rows do not add up");
}

}  // namespace rows

void bind_sparse_data(py::module_& m) {
  using namespace rows;
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // The rows of whole lines: (labels of each row, features of each row, labels, indices, values, repairs, fault), fault
  // being None or (kind, line in the text counted from 0, begin, end).
  m.def("parse_rows", [](py::bytes text, long labels, long features, long label_base, long feature_base, bool repair) {
    char* p;
    Py_ssize_t n;
    PyBytes_AsStringAndSize(text.ptr(), &p, &n);
    const long most = std::numeric_limits<int>::max();
    RowParser parser{p, std::min(labels, most), std::min(features, most), std::clamp(label_base, 0L, 1L),
                     std::clamp(feature_base, 0L, 1L), repair, {}, {}};
    { Release _; parser.read(n); }
    const Rows& r = parser.out;
    py::object fault = py::none();
    if (r.fault != kNone) fault = py::make_tuple((int)r.fault, r.line, r.begin, r.end);
    return py::make_tuple(as_array(r.label_counts), as_array(r.feature_counts), as_array(r.labels), as_array(r.index),
                          as_array(r.values), std::vector<long>(r.repairs, r.repairs + kRepairs), fault);
  }, py::arg("text"), py::arg("labels"), py::arg("features"), py::arg("label_base"), py::arg("feature_base"),
     py::arg("repair"));
  // The records of rows, given by the counts of each row and their labels, indices and values, one row after the other.
  m.def("pack_rows", [](const Ints& label_counts, const Ints& feature_counts, const Ints& labels, const Ints& index,
                        const Array& values) {
    sized(label_counts.size(), feature_counts);
    sized(index.size(), values);
    check_row_counts(label_counts, labels.size());
    check_row_counts(feature_counts, index.size());
    std::vector<py::bytes> records;
    records.reserve(label_counts.size());
    std::vector<char> record;
    const int *label = labels.data(), *at = index.data();
    const float* value = values.data();
    for (long i = 0; i < label_counts.size(); ++i) {
      const int n[2] = {label_counts.data()[i], feature_counts.data()[i]};
      record.clear();
      const auto add = [&](const void* from, long bytes) {
        record.insert(record.end(), (const char*)from, (const char*)from + bytes);
      };
      add(kMagic, 4);
      add(n, 8);
      add(label, 4L * n[0]);
      add(at, 4L * n[1]);
      add(value, 4L * n[1]);
      label += n[0], at += n[1], value += n[1];
      records.emplace_back(record.data(), record.size());
    }
    return records;
  }, nc("label_counts"), nc("feature_counts"), nc("labels"), nc("index"), nc("values"));
  // (most labels, most features, number, why) of records; the last two of the first one that cannot be used: -1 and ""
  // if all can.
  m.def("widest_row", [](const std::vector<py::bytes>& records) -> py::tuple {
    long labels = 0, features = 0;
    for (size_t i = 0; i < records.size(); ++i) {
      const char* why;
      const Record r = record_of(records[i], why);
      if (why) return py::make_tuple(labels, features, i, why);
      labels = std::max(labels, r.labels);
      features = std::max(features, r.features);
    }
    return py::make_tuple(labels, features, -1, "");
  }, py::arg("records"));
  // Records as arrays: values and indices (n, S), labels (n, L); padded by 0, -1 and -1.
  m.def("join_rows", [](const std::vector<py::bytes>& records, Array& values, Ints& index, Ints& labels) {
    const long n = (long)records.size();
    for (const py::array* a : {(const py::array*)&values, (const py::array*)&index, (const py::array*)&labels})
      require(a->ndim() == 2 && a->shape(0) == n, "a row for each record is needed");
    const long width = values.shape(1), most = labels.shape(1);
    require(index.shape(1) == width, "as many indices as values are needed");
    float* v = values.mutable_data();
    int *at = index.mutable_data(), *label = labels.mutable_data();
    for (long i = 0; i < n; ++i, v += width, at += width, label += most) {
      const char* why;
      const Record r = record_of(records[i], why);
      require(!why && r.features <= width && r.labels <= most, "a record is damaged, or wider than the arrays");
      std::memcpy(label, r.at + kHead, 4 * r.labels);
      std::memcpy(at, r.at + kHead + 4 * r.labels, 4 * r.features);
      std::memcpy(v, r.at + kHead + 4 * (r.labels + r.features), 4 * r.features);
      std::fill(label + r.labels, label + most, -1);
      std::fill(at + r.features, at + width, -1);
      std::fill(v + r.features, v + width, 0.0f);
    }
  }, py::arg("records"), nc("values"), nc("index"), nc("labels"));
}
}  // namespace BREW_ISA
