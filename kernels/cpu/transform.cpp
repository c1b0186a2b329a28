// Records of a database and decoded images into the batch that the net sees: crop, mirror, subtract the mean, scale.
#include "cpu.h"

namespace BREW_ISA {

struct Datum {                                   // one record (message Datum); offsets point into the record
  long channels = 0, height = 0, width = 0, label = 0;
  const unsigned char* data = nullptr;
  long bytes = 0, floats = 0;                    // floats: how many float_data, packed or not
  bool encoded = false;
  // Whether `n` values are a whole image. The extents are what the record says: none is trusted before all are multiplied.
  bool has(long n) const {
    long pixels = 0, all = 0;
    return channels >= 0 && height >= 0 && width >= 0 && !__builtin_mul_overflow(height, width, &pixels) &&
           !__builtin_mul_overflow(pixels, channels, &all) && all == n;
  }
};

struct Reader {                                  // protobuf wire format, just what Datum needs
  const unsigned char *at, *end;
  bool ok = true;
  std::uint64_t varint() {
    std::uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at >= end) break;
      v |= (std::uint64_t)(*at & 127) << shift;
      if (!(*at++ & 128)) return v;
    }
    ok = false;
    return 0;
  }
  const unsigned char* take(std::uint64_t n) {
    if ((std::uint64_t)(end - at) < n) { ok = false; return nullptr; }
    at += n;
    return at - n;
  }
};

bool parse(const char* record, long size, Datum& d, std::vector<float>* floats) {
  Reader r{(const unsigned char*)record, (const unsigned char*)record + size};
  const auto number = [&](const unsigned char* p) { float f; std::memcpy(&f, p, 4); if (floats) floats->push_back(f); ++d.floats; };
  while (r.ok && r.at < r.end) {
    const std::uint64_t tag = r.varint();
    const int field = (int)(tag >> 3), wire = (int)(tag & 7);
    if (wire == 0) {
      const long v = (long)r.varint();
      if (field == 1) d.channels = v;
      else if (field == 2) d.height = v;
      else if (field == 3) d.width = v;
      else if (field == 5) d.label = v;
      else if (field == 7) d.encoded = v != 0;
    } else if (wire == 2) {
      const std::uint64_t length = r.varint();
      const unsigned char* p = r.ok ? r.take(length) : nullptr;
      if (!r.ok) return false;
      if (field == 4) { d.data = p; d.bytes = (long)length; }
      else if (field == 6) for (std::uint64_t i = 0; i + 4 <= length; i += 4) number(p + i);
    } else if (wire == 5) {
      const unsigned char* p = r.take(4);
      if (p && field == 6) number(p);
    } else if (wire == 1) r.take(8);
    else return false;
  }
  return r.ok;
}

// What is done to every image of a batch.
struct Transform {
  long channels, out_h, out_w;                   // of the result
  const float* mean; long mean_size;             // one per channel, or one per element of the uncropped image, or none
  float scale;
};

// The transform of images of this size into the n places of `out`. Throws unless out and mean fit.
Transform transform_into(const py::array& out, long n, long channels, long height, long width, const Array& mean, float scale) {
  require(out.ndim() == 4 && n >= 0 && n <= out.shape(0), "out needs the shape (n, channels, height, width)");
  require(out.shape(1) == channels && out.shape(2) <= height && out.shape(3) <= width, "out has other channels than the image, or is larger");
  const long values = volume({channels, height, width});
  require(mean.size() <= 1 || mean.size() == channels || mean.size() == values, "the mean is for images of another size");
  return {channels, out.shape(2), out.shape(3), mean.data(), mean.size(), scale};
}

// Throws unless the window of the result lies in an image of this size.
void check_crop(const Transform& t, long top, long left, long height, long width) {
  require(top >= 0 && left >= 0 && top <= height - t.out_h && left <= width - t.out_w, "the crop is not in the image");
}

// Only crop and mirror: bytes that `normalize` makes floats of when somebody reads them.
template <class F>
void crop(const Transform& t, long top, long left, bool mirror, unsigned char* out, F value) {
  for (long c = 0; c < t.channels; ++c)
    for (long h = 0; h < t.out_h; ++h) {
      unsigned char* row = out + (c * t.out_h + h) * t.out_w;
      if (mirror)
        for (long w = 0; w < t.out_w; ++w) row[t.out_w - 1 - w] = value(c, top + h, left + w);
      else
        for (long w = 0; w < t.out_w; ++w) row[w] = value(c, top + h, left + w);
    }
}

// `value(c, h, w)` is the pixel of the uncropped image.
template <class F>
void transform(const Transform& t, long height, long width, long top, long left, bool mirror, float* out, F value) {
  for (long c = 0; c < t.channels; ++c)
    for (long h = 0; h < t.out_h; ++h) {
      float* row = out + (c * t.out_h + h) * t.out_w;
      const float* mean = t.mean_size > t.channels ? t.mean + (c * height + top + h) * width + left : nullptr;
      const float flat = t.mean_size && !mean ? t.mean[t.mean_size == 1 ? 0 : c] : 0.0f;
      if (mirror)
        for (long w = 0; w < t.out_w; ++w) row[t.out_w - 1 - w] = (value(c, top + h, left + w) - (mean ? mean[w] : flat)) * t.scale;
      else
        for (long w = 0; w < t.out_w; ++w) row[w] = (value(c, top + h, left + w) - (mean ? mean[w] : flat)) * t.scale;
    }
}

// Goes through the records of a batch: place(i, datum, floats, crop) writes image i, or returns false if it cannot be one.
// `floats` are the record's float_data. Returns (indices of encoded records, indices of unusable ones).
template <class F>
py::tuple each_record(const std::vector<py::bytes>& records, Optional& labels_, const Ints& crops_, const Transform& t, long height, long width, F place) {
  const long n = (long)records.size();
  sized(3 * n, crops_);
  sized(n, labels_);
  for (long i = 0; i < n; ++i) check_crop(t, crops_.data()[3 * i], crops_.data()[3 * i + 1], height, width);
  std::vector<std::pair<const char*, Py_ssize_t>> raw;
  for (const py::bytes& r : records) { char* p; Py_ssize_t n; PyBytes_AsStringAndSize(r.ptr(), &p, &n); raw.push_back({p, n}); }
  float* labels = mutable_pointer(labels_);
  const int* crop = crops_.data();
  std::vector<long> encoded, bad;
  { Release _;
    std::vector<float> floats;
    for (size_t i = 0; i < raw.size(); ++i, crop += 3) {
      Datum d; floats.clear();
      if (!parse(raw[i].first, raw[i].second, d, &floats)) { bad.push_back(i); continue; }
      if (labels) labels[i] = (float)d.label;
      const bool fits = d.channels == t.channels && d.height == height && d.width == width;
      if (d.encoded) encoded.push_back(i);
      else if (!fits || !place((long)i, d, floats, crop)) bad.push_back(i);
    } }
  return py::make_tuple(encoded, bad);
}

void bind_transform(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // (channels, height, width, label, encoded, offset and length of data, number of floats); ValueError if no Datum
  m.def("parse_datum", [](py::bytes record) {
    char* p; Py_ssize_t n;
    PyBytes_AsStringAndSize(record.ptr(), &p, &n);
    Datum d;
    if (!parse(p, n, d, nullptr)) throw py::value_error("the record is no whole Datum");
    return py::make_tuple(d.channels, d.height, d.width, d.label, d.encoded, d.data ? (const char*)d.data - p : 0, d.bytes, d.floats);
  }, py::arg("record"));
  // Transforms the records that hold pixels; returns (indices of encoded records, indices of unusable ones).
  // `crops` is (batch, 3): top, left, mirror.
  m.def("transform_records", [](const std::vector<py::bytes>& records, Array& out_, Optional& labels_, const Ints& crops_,
                                long height, long width, const Array& mean_, float scale) {
    require(out_.ndim() == 4, "out needs the shape (n, channels, height, width)");
    const Transform t = transform_into(out_, (long)records.size(), out_.shape(1), height, width, mean_, scale);
    float* out = out_.mutable_data();
    const long plane = height * width, size = t.channels * t.out_h * t.out_w;
    return each_record(records, labels_, crops_, t, height, width, [=](long i, const Datum& d, const std::vector<float>& floats, const int* crop) {
      if (d.has(d.bytes))
        transform(t, height, width, crop[0], crop[1], crop[2], out + i * size, [&](long c, long h, long w) { return (float)d.data[c * plane + h * width + w]; });
      else if (d.has(d.floats))
        transform(t, height, width, crop[0], crop[1], crop[2], out + i * size, [&](long c, long h, long w) { return floats[c * plane + h * width + w]; });
      else return false;
      return true;
    });
  }, py::arg("records"), nc("out"), nc("labels"), nc("crops"), py::arg("height"), py::arg("width"), nc("mean"), py::arg("scale"));
  // As transform_records, with crop and mirror alone; records with other values than bytes count as unusable.
  m.def("crop_records", [](const std::vector<py::bytes>& records, Bytes& out_, Optional& labels_, const Ints& crops_, long height, long width) {
    require(out_.ndim() == 4, "out needs the shape (n, channels, height, width)");
    const Transform t = transform_into(out_, (long)records.size(), out_.shape(1), height, width, Array(0), 1);
    unsigned char* out = out_.mutable_data();
    const long plane = height * width, size = t.channels * t.out_h * t.out_w;
    return each_record(records, labels_, crops_, t, height, width, [=](long i, const Datum& d, const std::vector<float>&, const int* at) {
      if (!d.has(d.bytes)) return false;
      crop(t, at[0], at[1], at[2], out + i * size, [&](long c, long h, long w) { return d.data[c * plane + h * width + w]; });
      return true;
    });
  }, py::arg("records"), nc("out"), nc("labels"), nc("crops"), py::arg("height"), py::arg("width"));
  // One decoded image, (H, W, C) bytes, into out[index], with crop and mirror alone.
  m.def("crop_image", [](const Bytes& image_, Bytes& out_, long index, long top, long left, bool mirror) {
    require(image_.ndim() == 3, "an image needs the shape (height, width, channels)");
    const long width = image_.shape(1), channels = image_.shape(2);
    const Transform t = transform_into(out_, index + 1, channels, image_.shape(0), width, Array(0), 1);
    check_crop(t, top, left, image_.shape(0), width);
    require(index >= 0, "no such place");
    const unsigned char* image = image_.data(); unsigned char* out = out_.mutable_data() + index * t.channels * t.out_h * t.out_w; Release _;
    crop(t, top, left, mirror, out, [=](long c, long h, long w) { return image[(h * width + w) * channels + c]; });
  }, nc("image"), nc("out"), py::arg("index"), py::arg("top"), py::arg("left"), py::arg("mirror"));
  // y = (x - mean) scale, for cropped images x (n, channels, h, w); `crops` is (n, 3), of images of height x width.
  m.def("normalize", [](const Bytes& x_, const Ints& crops_, const Array& mean_, float scale, Array& y_, long channels, long out_h, long out_w, long height, long width) {
    const long size = volume({channels, out_h, out_w}), n = size ? x_.size() / size : 0;
    require(x_.size() == n * size, "normalize: x has a part of an image");
    sized(x_.size(), y_);
    sized(3 * n, crops_);
    const Transform t{channels, out_h, out_w, mean_.data(), mean_.size(), scale};
    require(t.mean_size <= 1 || t.mean_size == channels || t.mean_size == volume({channels, height, width}), "the mean is for images of another size");
    require(out_h <= height && out_w <= width, "the result is larger than the image");
    const int* crops = crops_.data();
    for (long i = 0; i < n; ++i) check_crop(t, crops[3 * i], crops[3 * i + 1], height, width);
    const unsigned char* x = x_.data(); float* y = y_.mutable_data(); Release _;
    const long rows = n * channels * out_h;
    // On one thread: OpenMP's threads spin after a loop, and would take the cores from those that decode (measured: 0.87)
    for (long r = 0; r < rows; ++r) {
      const long c = r / out_h % channels, h = r % out_h;
      const int* const at = crops + 3 * (r / out_h / channels);
      const unsigned char* const from = x + r * out_w;
      float* const to = y + r * out_w;
      if (t.mean_size <= channels) {
        const float flat = t.mean_size ? t.mean[t.mean_size == 1 ? 0 : c] : 0.0f;
#pragma omp simd
        for (long w = 0; w < out_w; ++w) to[w] = ((float)from[w] - flat) * scale;
      } else {
        const float* const mean = t.mean + (c * height + at[0] + h) * width + at[1];
        for (long w = 0; w < out_w; ++w) to[w] = ((float)from[w] - mean[at[2] ? out_w - 1 - w : w]) * scale;
      }
    }
  }, nc("x"), nc("crops"), nc("mean"), py::arg("scale"), nc("y"), py::arg("channels"), py::arg("out_h"), py::arg("out_w"), py::arg("height"), py::arg("width"));
  // One decoded image, (H, W, C) bytes, into out[index].
  m.def("transform_image", [](const Bytes& image_, Array& out_, long index, long top, long left, bool mirror, const Array& mean_, float scale) {
    require(image_.ndim() == 3, "an image needs the shape (height, width, channels)");
    const long height = image_.shape(0), width = image_.shape(1), channels = image_.shape(2);
    const Transform t = transform_into(out_, index + 1, channels, height, width, mean_, scale);
    check_crop(t, top, left, height, width);
    require(index >= 0, "no such place");
    const unsigned char* image = image_.data(); float* out = out_.mutable_data() + index * t.channels * t.out_h * t.out_w; Release _;
    transform(t, height, width, top, left, mirror, out, [=](long c, long h, long w) { return (float)image[(h * width + w) * channels + c]; });
  }, nc("image"), nc("out"), py::arg("index"), py::arg("top"), py::arg("left"), py::arg("mirror"), nc("mean"), py::arg("scale"));
  // One array, (C, H, W) floats, into out[index].
  m.def("transform_floats", [](const Array& image_, Array& out_, long index, long top, long left, bool mirror, const Array& mean_, float scale) {
    require(image_.ndim() == 3, "an image needs the shape (channels, height, width)");
    const long height = image_.shape(1), width = image_.shape(2);
    const Transform t = transform_into(out_, index + 1, image_.shape(0), height, width, mean_, scale);
    check_crop(t, top, left, height, width);
    require(index >= 0, "no such place");
    const float* image = image_.data(); float* out = out_.mutable_data() + index * t.channels * t.out_h * t.out_w; Release _;
    transform(t, height, width, top, left, mirror, out, [=](long c, long h, long w) { return image[(c * height + h) * width + w]; });
  }, nc("image"), nc("out"), py::arg("index"), py::arg("top"), py::arg("left"), py::arg("mirror"), nc("mean"), py::arg("scale"));
}
}  // namespace BREW_ISA
