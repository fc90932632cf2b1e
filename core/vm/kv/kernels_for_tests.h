// Attention kernels in plain C++, for tests: arguments, layouts and masks are those of the kernels
// that relax/frontend/nn/llm of apache-tvm 0.27 makes, on float32 in CPU memory. Each raises an
// error where its arguments do not fit together.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/ffi/registry.h"
#include "core/runtime/tensor.h"

namespace sluice::vm::kernels {

using ffi::raise_value;

// What the compiler fixes in the kernels of windows: tokens that windowed layers see, 0 elsewhere
inline constinit int64_t layer_window = 0;

struct Arguments {
  const TVMFFIAny* values;
  int32_t count;
  bool good = true;

  const DLTensor& tensor(int32_t i, int32_t ndim) {
    static constexpr DLTensor kNone{};
    if (i >= count || values[i].type_index != kTVMFFITensor) {
      good = false;
      return kNone;
    }
    const DLTensor& out = reinterpret_cast<ffi::TensorObject*>(values[i].v_obj)->tensor;
    if (out.ndim == ndim) return out;
    good = false;
    return kNone;
  }
  int64_t extent(const DLTensor& tensor, int32_t i) { return good ? tensor.shape[i] : 0; }
  template <class T>
  T* data(const DLTensor& tensor, uint8_t code) {
    if (!good || tensor.dtype.code != code || tensor.dtype.bits != 32) {
      good = false;
      return nullptr;
    }
    return reinterpret_cast<T*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
  }
  // A float32 tensor that must stand at offset 0, as the compiled kernels ask for
  float* floats(const DLTensor& tensor) {
    good = good && tensor.byte_offset == 0;
    return data<float>(tensor, kDLFloat);
  }
  const int32_t* ints(int32_t i, int64_t size) {
    const DLTensor& t = tensor(i, 1);
    good = good && t.shape[0] == size;
    return data<int32_t>(t, kDLInt);
  }
  int64_t integer(int32_t i) {
    good = good && i < count && values[i].type_index == kTVMFFIInt;
    return good ? values[i].v_int64 : 0;
  }
  double number(int32_t i) {
    good = good && i < count && values[i].type_index == kTVMFFIFloat;
    return good ? values[i].v_float64 : 0;
  }
};

inline int wrong() { return raise_value("a kernel got arguments that do not fit together"); }

inline std::vector<float> rope(const float* x, int64_t dim, double position, double scale,
                               double theta) {
  std::vector<float> out(x, x + dim);
  for (int64_t i = 0; i < dim / 2; ++i) {
    const double angle =
        position * scale / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(dim));
    const double c = std::cos(angle), s = std::sin(angle);
    out[i] = static_cast<float>(c * x[i] - s * x[i + dim / 2]);
    out[i + dim / 2] = static_cast<float>(c * x[i + dim / 2] + s * x[i]);
  }
  return out;
}

// Attention of one query: keys come one after the other.
class Softmax {
 public:
  explicit Softmax(int64_t dim) : sum_(static_cast<size_t>(dim)) {}
  void add(double score, const float* v) {
    const double top = std::max(top_, score);
    const double old = std::exp2(top_ - top), now = std::exp2(score - top);
    weight_ = weight_ * old + now;
    for (size_t i = 0; i < sum_.size(); ++i) sum_[i] = sum_[i] * old + now * v[i];
    top_ = top;
  }
  void write(float* o, float* lse) const {
    for (size_t i = 0; i < sum_.size(); ++i) o[i] = static_cast<float>(sum_[i] / weight_);
    *lse = static_cast<float>(top_ + std::log2(weight_));
  }

 private:
  double top_ = -5e4, weight_ = 1;
  std::vector<double> sum_;
};

inline double dot(const float* a, const float* b, int64_t dim) {
  double out = 0;
  for (int64_t i = 0; i < dim; ++i) out += static_cast<double>(a[i]) * b[i];
  return out;
}

inline constexpr double kLog2E = 1.4426950408889634;

struct Rope {
  bool on;
  double scale, theta;
  std::vector<float> apply(const float* x, int64_t dim, int32_t position) const {
    return on ? rope(x, dim, position, scale, theta) : std::vector<float>(x, x + dim);
  }
};

// Of _causal_or_sliding_cross_mask
inline bool sees(bool causal, int64_t window, int64_t row, int64_t col, int64_t kv, int64_t qo) {
  if (causal && window > 0)
    return col < kv && col >= std::max<int64_t>(kv - std::max<int64_t>(window - row - 1, 0), 0);
  return causal ? col < kv - qo + row + 1 : col < kv;
}

// Of _check_tree_order
struct TreeOrder {
  const int32_t* indptr = nullptr;
  const int32_t* order = nullptr;
  bool sees(int64_t b, int64_t row, int64_t col, int64_t kv, int64_t qo) const {
    const int64_t size = indptr[b + 1] - indptr[b], start = kv - size;
    if (col >= kv) return false;
    if (col < start) return true;
    const int32_t* child = order + 2 * (indptr[b] + row + size - qo);
    const int32_t* parent = order + 2 * (indptr[b] + col - start);
    return child[0] >= parent[0] && child[0] < parent[1];
  }
};

// The pages that one entry of a batch attends to
struct Pages {
  const float* data;
  const int32_t *indptr, *values, *info;
  int64_t count, total, page, batch, inner;  // inner: elements from page to page
  bool windowed;

  int64_t length(int64_t b) const {
    const int64_t pages = indptr[b + 1] - indptr[b];
    if (pages == 0) return 0;
    const int64_t full = (pages - 1) * page + info[b];
    return windowed ? full - info[batch + b] + info[2 * batch + b] : full;
  }
  // {page, slot in it} of a token
  std::pair<int64_t, int64_t> at(int64_t b, int64_t token) const {
    const int64_t slot = !windowed || token < info[2 * batch + b]
                             ? token
                             : token - info[2 * batch + b] + info[batch + b];
    return {values[indptr[b] + slot / page], slot % page};
  }
  bool fits() const {
    for (int64_t b = 0; b < batch; ++b) {
      if (indptr[b] > indptr[b + 1] || indptr[b] < 0 || indptr[b + 1] > count || length(b) < 0)
        return false;
      for (int64_t t = 0; t < length(b); ++t) {
        const int64_t slot =
            !windowed || t < info[2 * batch + b] ? t : t - info[2 * batch + b] + info[batch + b];
        if (slot / page >= indptr[b + 1] - indptr[b]) return false;
      }
    }
    return std::all_of(values, values + count, [&](int32_t v) { return v >= 0 && v < total; });
  }
};

// Arguments pages, page_indptr, page_values, length_info, from `first` on
inline Pages pages_of(Arguments& args, int32_t first, int64_t batch, int32_t ndim) {
  Pages out{};
  const DLTensor& pages = args.tensor(first, ndim);
  out.batch = batch;
  out.indptr = args.ints(first + 1, batch + 1);
  const DLTensor& values = args.tensor(first + 2, 1);
  out.windowed =
      args.good && first + 3 < args.count &&
      reinterpret_cast<ffi::TensorObject*>(args.values[first + 3].v_obj)->tensor.ndim == 2;
  if (out.windowed) {
    const DLTensor& info = args.tensor(first + 3, 2);
    args.good = args.good && info.shape[0] == 3 && info.shape[1] == batch;
    out.info = args.data<int32_t>(info, kDLInt);
  } else {
    out.info = args.ints(first + 3, batch);
  }
  out.data = args.floats(pages);
  out.values = args.data<int32_t>(values, kDLInt);
  if (!args.good) return out;
  out.count = values.shape[0];
  out.total = pages.shape[0];
  out.page = ndim == 5 ? pages.shape[3] : pages.shape[1];
  out.inner = 1;
  for (int32_t i = 1; i < ndim; ++i) out.inner *= pages.shape[i];
  args.good = out.fits();
  return out;
}

inline bool is_indptr(const int32_t* indptr, int64_t batch, int64_t total) {
  if (indptr[0] != 0 || indptr[batch] != total) return false;
  for (int64_t b = 0; b < batch; ++b)
    if (indptr[b] > indptr[b + 1]) return false;
  return true;
}

// Attention to pages by heads. `order` may be null.
inline void attend_pages(const Pages& pages, const DLTensor& page_shape, const float* q,
                         const DLTensor& q_shape, const int32_t* qo_indptr, const int32_t* k_offset,
                         const int32_t* q_position, float* o, float* lse, bool causal, Rope turn,
                         double scale, const TreeOrder* order) {
  const int64_t heads = q_shape.shape[1], dim = q_shape.shape[2];
  const int64_t kv_heads = page_shape.shape[2], group = heads / kv_heads;
  const int64_t half = pages.inner / 2;
  const int64_t window = pages.windowed ? layer_window : 0;
  for (int64_t b = 0; b < pages.batch; ++b) {
    const int64_t kv = pages.length(b), qo = qo_indptr[b + 1] - qo_indptr[b];
    for (int64_t row = 0; row < qo; ++row) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = (qo_indptr[b] + row) * heads + h;
        const auto query = turn.apply(q + at * dim, dim, q_position[qo_indptr[b] + row]);
        Softmax softmax(dim);
        for (int64_t col = 0; col < kv; ++col) {
          if (order != nullptr ? !order->sees(b, row, col, kv, qo)
                               : !sees(causal, window, row, col, kv, qo))
            continue;
          const auto [page, slot] = pages.at(b, col);
          const float* k =
              pages.data + page * pages.inner + ((h / group) * pages.page + slot) * dim;
          const auto key = turn.apply(k, dim, k_offset[b] + static_cast<int32_t>(col));
          softmax.add(dot(query.data(), key.data(), dim) * scale * kLog2E, k + half);
        }
        softmax.write(o + at * dim, lse + at);
      }
    }
  }
}

inline Rope rope_of(Arguments& args, int32_t first) {
  const int64_t on = args.integer(first);
  return {.on = on == 1, .scale = args.number(first + 1), .theta = args.number(first + 2)};
}

// (q, qo_indptr, pages, page_indptr, page_values, length_info, k_rope_pos_offset, q_rope_position,
// o, lse, causal, rotary_mode, rope_scale, rope_theta, sm_scale)
inline int prefill(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &q = a.tensor(0, 3), &o = a.tensor(8, 3), &lse = a.tensor(9, 2);
  const int64_t batch = a.extent(a.tensor(1, 1), 0) - 1, rows = a.extent(q, 0);
  const int32_t* qo = a.ints(1, batch + 1);
  const Pages pages = pages_of(a, 2, batch, 5);
  const int32_t *offset = a.ints(6, batch), *position = a.ints(7, rows);
  const float* from = a.floats(q);
  float *to = a.floats(o), *to_lse = a.floats(lse);
  const int64_t causal = a.integer(10);
  const Rope turn = rope_of(a, 11);
  const double scale = a.number(14);
  if (!a.good || count != 15 || !is_indptr(qo, batch, rows)) return wrong();
  attend_pages(pages, a.tensor(2, 5), from, q, qo, offset, position, to, to_lse, causal != 0, turn,
               scale, nullptr);
  return 0;
}

// (q, pages, page_indptr, page_values, length_info, k_rope_pos_offset, q_rope_position, o, lse,
// rotary_mode, rope_scale, rope_theta, sm_scale)
inline int decode(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &q = a.tensor(0, 3), &o = a.tensor(7, 3), &lse = a.tensor(8, 2);
  const int64_t batch = a.extent(q, 0);
  const Pages pages = pages_of(a, 1, batch, 5);
  const int32_t *offset = a.ints(5, batch), *position = a.ints(6, batch);
  const float* from = a.floats(q);
  float *to = a.floats(o), *to_lse = a.floats(lse);
  const Rope turn = rope_of(a, 9);
  const double scale = a.number(12);
  if (!a.good || count != 13) return wrong();
  std::vector<int32_t> qo;
  for (int32_t b = 0; b <= batch; ++b) qo.push_back(b);
  attend_pages(pages, a.tensor(1, 5), from, q, qo.data(), offset, position, to, to_lse, false, turn,
               scale, nullptr);
  return 0;
}

// (q, qo_indptr, pages, page_indptr, page_values, length_info, k_rope_pos_offset, q_rope_position,
// o, lse, rotary_mode, rope_scale, rope_theta, sm_scale, tree_order_indptr, tree_order)
inline int tree_paged(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &q = a.tensor(0, 3), &o = a.tensor(8, 3), &lse = a.tensor(9, 2);
  const int64_t batch = a.extent(a.tensor(1, 1), 0) - 1, rows = a.extent(q, 0);
  const int32_t* qo = a.ints(1, batch + 1);
  const Pages pages = pages_of(a, 2, batch, 5);
  const int32_t *offset = a.ints(6, batch), *position = a.ints(7, rows);
  const float* from = a.floats(q);
  float *to = a.floats(o), *to_lse = a.floats(lse);
  const Rope turn = rope_of(a, 10);
  const double scale = a.number(13);
  const TreeOrder order{.indptr = a.ints(14, batch + 1),
                        .order = a.data<int32_t>(a.tensor(15, 2), kDLInt)};
  if (!a.good || count != 16 || !is_indptr(qo, batch, rows) || a.tensor(15, 2).shape[1] != 2 ||
      a.tensor(15, 2).shape[0] != order.indptr[batch])
    return wrong();
  attend_pages(pages, a.tensor(2, 5), from, q, qo, offset, position, to, to_lse, false, turn, scale,
               &order);
  return 0;
}

// (q, qo_indptr, k, v, kv_indptr, q_rope_position, …, o, lse, …)
inline void attend_ragged(const DLTensor& q_shape, const DLTensor& v_shape, const float* q,
                          const float* k, const float* v, const int32_t* indptr, int64_t batch,
                          const int32_t* q_position, const int32_t* k_position, float* o,
                          float* lse, bool causal, Rope turn, double scale,
                          const TreeOrder* order) {
  const int64_t heads = q_shape.shape[1], dim = q_shape.shape[2], v_dim = v_shape.shape[2];
  const int64_t kv_heads = v_shape.shape[1], group = heads / kv_heads;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t size = indptr[b + 1] - indptr[b];
    for (int64_t row = 0; row < size; ++row) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = (indptr[b] + row) * heads + h;
        const auto query = turn.apply(q + at * dim, dim, q_position[indptr[b] + row]);
        Softmax softmax(v_dim);
        for (int64_t col = 0; col < size; ++col) {
          if (order != nullptr ? !order->sees(b, row, col, size, size)
                               : !sees(causal, 0, row, col, size, size))
            continue;
          const int64_t kv_at = (indptr[b] + col) * kv_heads + h / group;
          const auto key = turn.apply(k + kv_at * dim, dim, k_position[indptr[b] + col]);
          softmax.add(dot(query.data(), key.data(), dim) * scale * kLog2E, v + kv_at * v_dim);
        }
        softmax.write(o + at * v_dim, lse + at);
      }
    }
  }
}

// (q, qo_indptr, k, v, kv_indptr, q_rope_position, k_rope_pos_offset, o, lse, causal, rotary_mode,
// rope_scale, rope_theta, sm_scale)
inline int ragged(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &q = a.tensor(0, 3), &k = a.tensor(2, 3), &v = a.tensor(3, 3);
  const DLTensor &o = a.tensor(7, 3), &lse = a.tensor(8, 2);
  const int64_t rows = a.extent(q, 0), batch = a.extent(a.tensor(1, 1), 0) - 1;
  const int32_t *qo = a.ints(1, batch + 1), *kv = a.ints(4, batch + 1);
  const int32_t *position = a.ints(5, rows), *offset = a.ints(6, batch);
  const float *q_data = a.floats(q), *k_data = a.floats(k), *v_data = a.floats(v);
  float *o_data = a.floats(o), *lse_data = a.floats(lse);
  const int64_t causal = a.integer(9);
  const Rope turn = rope_of(a, 10);
  const double scale = a.number(13);
  if (!a.good || count != 14 || !is_indptr(qo, batch, rows) || !std::equal(qo, qo + batch + 1, kv))
    return wrong();
  std::vector<int32_t> k_position(static_cast<size_t>(rows));
  for (int64_t b = 0; b < batch; ++b)
    for (int32_t i = kv[b]; i < kv[b + 1]; ++i) k_position[i] = offset[b] + i - kv[b];
  attend_ragged(q, v, q_data, k_data, v_data, qo, batch, position, k_position.data(), o_data,
                lse_data, causal != 0, turn, scale, nullptr);
  return 0;
}

// (q, qo_indptr, k, v, kv_indptr, q_rope_position, mn_indptr, mask, o, lse, rotary_mode,
// rope_scale, rope_theta, sm_scale)
inline int tree_ragged(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &q = a.tensor(0, 3), &k = a.tensor(2, 3), &v = a.tensor(3, 3);
  const DLTensor &mask = a.tensor(7, 2), &o = a.tensor(8, 3), &lse = a.tensor(9, 2);
  const int64_t rows = a.extent(q, 0), batch = a.extent(a.tensor(1, 1), 0) - 1;
  const int32_t *qo = a.ints(1, batch + 1), *kv = a.ints(4, batch + 1);
  const int32_t* position = a.ints(5, rows);
  const TreeOrder order{.indptr = a.ints(6, batch + 1), .order = a.data<int32_t>(mask, kDLInt)};
  const float *q_data = a.floats(q), *k_data = a.floats(k), *v_data = a.floats(v);
  float *o_data = a.floats(o), *lse_data = a.floats(lse);
  const Rope turn = rope_of(a, 10);
  const double scale = a.number(13);
  if (!a.good || count != 14 || !is_indptr(qo, batch, rows) ||
      !std::equal(qo, qo + batch + 1, kv) || mask.shape[1] != 2 || mask.shape[0] != rows ||
      order.indptr[batch] != rows)
    return wrong();
  attend_ragged(q, v, q_data, k_data, v_data, qo, batch, position, position, o_data, lse_data, true,
                turn, scale, &order);
  return 0;
}

// (q, qo_indptr, pages, page_indptr, page_values, length_info, o, lse, causal, sm_scale): V is the
// first part of K.
inline int latent(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &q = a.tensor(0, 3), &o = a.tensor(6, 3), &lse = a.tensor(7, 2);
  const int64_t batch = a.extent(a.tensor(1, 1), 0) - 1, rows = a.extent(q, 0);
  const int32_t* qo = a.ints(1, batch + 1);
  const Pages pages = pages_of(a, 2, batch, 3);
  const float* from = a.floats(q);
  float *to = a.floats(o), *to_lse = a.floats(lse);
  const int64_t causal = a.integer(8);
  const double scale = a.number(9);
  if (!a.good || count != 10 || !is_indptr(qo, batch, rows)) return wrong();
  const int64_t heads = q.shape[1], dim = q.shape[2], v_dim = o.shape[2];
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = pages.length(b), size = qo[b + 1] - qo[b];
    for (int64_t row = 0; row < size; ++row) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = (qo[b] + row) * heads + h;
        Softmax softmax(v_dim);
        for (int64_t col = 0; col < length; ++col) {
          if (!sees(causal != 0, 0, row, col, length, size)) continue;
          const auto [page, slot] = pages.at(b, col);
          const float* k = pages.data + page * pages.inner + slot * dim;
          softmax.add(dot(from + at * dim, k, dim) * scale * kLog2E, k);
        }
        softmax.write(to + at * v_dim, to_lse + at);
      }
    }
  }
  return 0;
}

// (o, lse, other o, other lse)
inline int merge(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &o = a.tensor(0, 3), &lse = a.tensor(1, 2);
  const DLTensor &other = a.tensor(2, 3), &other_lse = a.tensor(3, 2);
  float *x = a.floats(o), *s = a.floats(lse);
  const float *y = a.floats(other), *t = a.floats(other_lse);
  if (!a.good || count != 4 || !std::equal(o.shape, o.shape + 3, other.shape)) return wrong();
  for (int64_t i = 0; i < o.shape[0] * o.shape[1]; ++i) {
    const double top = std::max(s[i], t[i]);
    const double first = std::exp2(s[i] - top), second = std::exp2(t[i] - top);
    for (int64_t d = 0; d < o.shape[2]; ++d) {
      float& place = x[i * o.shape[2] + d];
      place =
          static_cast<float>((place * first + y[i * o.shape[2] + d] * second) / (first + second));
    }
    s[i] = static_cast<float>(top + std::log2(first + second));
  }
  return 0;
}

inline constexpr double kTheta = 500, kScale = 1;  // what the compiler fixes in split_rotary

// (qkv, position_map, q, k, v, apply_rope)
inline int split_rotary(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &qkv = a.tensor(0, 3), &q = a.tensor(2, 3), &k = a.tensor(3, 3),
                 &v = a.tensor(4, 3);
  const int64_t rows = a.extent(qkv, 0);
  const int32_t* position = a.ints(1, rows);
  const float* from = a.floats(qkv);
  float *q_data = a.floats(q), *k_data = a.floats(k), *v_data = a.floats(v);
  const int64_t apply = a.integer(5);
  if (!a.good || count != 6 || q.shape[0] != rows || k.shape[0] != rows || v.shape[0] != rows)
    return wrong();
  const int64_t dim = qkv.shape[2], heads = q.shape[1], kv_heads = k.shape[1];
  const Rope turn{.on = apply != 0, .scale = kScale, .theta = kTheta};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t h = 0; h < heads + 2 * kv_heads; ++h) {
      const float* x = from + (row * (heads + 2 * kv_heads) + h) * dim;
      const auto turned =
          h < heads + kv_heads ? turn.apply(x, dim, position[row]) : std::vector<float>(x, x + dim);
      float* to = h < heads              ? q_data + (row * heads + h) * dim
                  : h < heads + kv_heads ? k_data + (row * kv_heads + h - heads) * dim
                                         : v_data + (row * kv_heads + h - heads - kv_heads) * dim;
      std::copy(turned.begin(), turned.end(), to);
    }
  }
  return 0;
}

// One token's K and V of a head in pages [pages, 2, heads, page, dim]
struct Slots {
  float* data;
  const int64_t* shape;
  float* at(int64_t place, int64_t which, int64_t head) const {
    const int64_t page = shape[3], dim = shape[4];
    return data + ((((place / page) * 2 + which) * shape[2] + head) * page + place % page) * dim;
  }
  bool has(int64_t place) const { return place >= 0 && place < shape[0] * shape[3]; }
  void copy(int64_t from, int64_t to) const {
    for (int64_t which = 0; which < 2; ++which)
      for (int64_t h = 0; h < shape[2]; ++h)
        std::copy_n(at(from, which, h), shape[4], at(to, which, h));
  }
};

// (pages, k, v, position_map)
inline int append(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &pages = a.tensor(0, 5), &k = a.tensor(1, 3), &v = a.tensor(2, 3);
  const int64_t rows = a.extent(k, 0);
  const int32_t* map = a.ints(3, rows);
  const Slots slots{.data = a.floats(pages), .shape = pages.shape};
  const float *k_data = a.floats(k), *v_data = a.floats(v);
  if (!a.good || count != 4 || v.shape[0] != rows) return wrong();
  const int64_t heads = k.shape[1], dim = k.shape[2];
  for (int64_t row = 0; row < rows; ++row) {
    if (map[row] == -1) continue;
    if (!slots.has(map[row])) return wrong();
    for (int64_t h = 0; h < heads; ++h) {
      std::copy_n(k_data + (row * heads + h) * dim, dim, slots.at(map[row], 0, h));
      std::copy_n(v_data + (row * heads + h) * dim, dim, slots.at(map[row], 1, h));
    }
  }
  return 0;
}

// (pages, kv, position_map)
inline int append_latent(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &pages = a.tensor(0, 3), &kv = a.tensor(1, 2);
  const int64_t rows = a.extent(kv, 0);
  const int32_t* map = a.ints(2, rows);
  float* to = a.floats(pages);
  const float* from = a.floats(kv);
  if (!a.good || count != 3) return wrong();
  for (int64_t row = 0; row < rows; ++row) {
    if (map[row] < 0 || map[row] >= pages.shape[0] * pages.shape[1]) return wrong();
    std::copy_n(from + row * kv.shape[1], kv.shape[1], to + map[row] * kv.shape[1]);
  }
  return 0;
}

// (pages, src_page_id, tgt_page_id, copy_length): of both layouts
inline int copy_page(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const bool latent_pages = count > 0 && values[0].type_index == kTVMFFITensor &&
                            reinterpret_cast<ffi::TensorObject*>(values[0].v_obj)->tensor.ndim == 3;
  const DLTensor& pages = a.tensor(0, latent_pages ? 3 : 5);
  float* data = a.floats(pages);
  const int64_t from = a.integer(1), to = a.integer(2), tokens = a.integer(3);
  if (!a.good || count != 4) return wrong();
  const int64_t page = latent_pages ? pages.shape[1] : pages.shape[3];
  if (from < 0 || to < 0 || std::max(from, to) >= pages.shape[0] || tokens < 0 || tokens > page)
    return wrong();
  for (int64_t i = 0; i < tokens; ++i) {
    if (latent_pages)
      std::copy_n(data + (from * page + i) * pages.shape[2], pages.shape[2],
                  data + (to * page + i) * pages.shape[2]);
    else
      Slots{.data = data, .shape = pages.shape}.copy(from * page + i, to * page + i);
  }
  return 0;
}

// (pages, position_map, k, v, layer_id)
inline int get_kv(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &pages = a.tensor(0, 5), &k = a.tensor(2, 4), &v = a.tensor(3, 4);
  const int64_t rows = a.extent(k, 1), layer = a.integer(4);
  const int32_t* map = a.ints(1, rows);
  const Slots slots{.data = a.floats(pages), .shape = pages.shape};
  float *k_data = a.floats(k), *v_data = a.floats(v);
  if (!a.good || count != 5 || layer < 0 || layer >= k.shape[0]) return wrong();
  const int64_t heads = k.shape[2], dim = k.shape[3];
  for (int64_t row = 0; row < rows; ++row) {
    if (!slots.has(map[row])) return wrong();
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = ((layer * rows + row) * heads + h) * dim;
      std::copy_n(slots.at(map[row], 0, h), dim, k_data + at);
      std::copy_n(slots.at(map[row], 1, h), dim, v_data + at);
    }
  }
  return 0;
}

// (pages, position_map, kv, layer_id)
inline int get_latent(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &pages = a.tensor(0, 3), &kv = a.tensor(2, 3);
  const int64_t rows = a.extent(kv, 1), layer = a.integer(3);
  const int32_t* map = a.ints(1, rows);
  const float* from = a.floats(pages);
  float* to = a.floats(kv);
  if (!a.good || count != 4 || layer < 0 || layer >= kv.shape[0]) return wrong();
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(from + map[row] * kv.shape[2], kv.shape[2],
                to + (layer * rows + row) * kv.shape[2]);
  return 0;
}

// (pages, copy_length_indptr, copy_src_dst_pos, batch_size)
inline int compact(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny*) {
  Arguments a{.values = values, .count = count};
  const DLTensor &pages = a.tensor(0, 5), &places = a.tensor(2, 2);
  const int64_t batch = a.integer(3);
  const int32_t *indptr = a.ints(1, batch + 1), *place = a.data<int32_t>(places, kDLInt);
  const Slots slots{.data = a.floats(pages), .shape = pages.shape};
  if (!a.good || count != 4 || places.shape[0] != 2 || !is_indptr(indptr, batch, places.shape[1]))
    return wrong();
  for (int64_t i = 0; i < places.shape[1]; ++i) {
    const int64_t from = place[i], to = place[places.shape[1] + i];
    if (!slots.has(from) || !slots.has(to)) return wrong();
    slots.copy(from, to);
  }
  return 0;
}

}  // namespace sluice::vm::kernels
