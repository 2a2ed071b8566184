// Fused kernels of the CPU's fast path (nshot.nn.fused): batch norms without affine parameters, sums, ReLU and 3x3
// average pooling of one node, in one pass over memory each. All images are channels-last: (N, H, W, C), contiguous.
//
// T is what convolutions read and write (float or bfloat16); node values and all statistics are float. Sums run over
// fixed blocks of rows and then over the blocks, so that results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

constexpr int64_t BLOCK = 256;  // rows (pixels of all images) that one partial sum covers

struct bf16 {
  uint16_t bits;
};

inline float get(float x) { return x; }

inline float get(bf16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline void put(float &to, float x) { to = x; }

inline void put(bf16 &to, float x) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Sums of (y - y[0]) and its square over blocks of rows, then mean and 1 / std of each channel.
template <typename T, int CC>
void moments(const T *y, int64_t rows, int64_t c_, float eps, float *mean, float *rstd) {
  const int64_t C = CC ? CC : c_, blocks = (rows + BLOCK - 1) / BLOCK;
  std::vector<float> sums(2 * C * blocks);
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < blocks; b++) {
    float *s = &sums[2 * C * b], *q = s + C;
    for (int64_t r = b * BLOCK; r < std::min(rows, (b + 1) * BLOCK); r++)
#pragma omp simd
      for (int64_t c = 0; c < C; c++) {
        float d = get(y[r * C + c]) - get(y[c]);
        s[c] += d;
        q[c] += d * d;
      }
  }
  for (int64_t c = 0; c < C; c++) {
    double s = 0, q = 0;
    for (int64_t b = 0; b < blocks; b++) s += sums[2 * C * b + c], q += sums[2 * C * b + C + c];
    double shift = s / rows, variance = std::max(0.0, q / rows - shift * shift);
    mean[c] = float(get(y[c]) + shift);
    rstd[c] = float(1 / std::sqrt(variance + eps));
  }
}

// v[w, c] = sum of the three rows around h of all pooled tensors, each times its scale; `transposed` weighs each row by
// 1 / its count.
inline void add_rows(float *v, const float *const *pooled, const float *scale, int64_t P, int64_t n, int64_t h, int64_t H, int64_t row,
                     bool transposed) {
  std::memset(v, 0, row * sizeof(float));
  for (int64_t i = std::max<int64_t>(0, h - 1); i <= std::min(H - 1, h + 1); i++) {
    float weight = transposed ? 1.0f / (std::min(H - 1, i + 1) - std::max<int64_t>(0, i - 1) + 1) : 1.0f;
    for (int64_t p = 0; p < P; p++) {
      const float *x = pooled[p] + (n * H + i) * row, times = weight * scale[p];
#pragma omp simd
      for (int64_t j = 0; j < row; j++) v[j] += times * x[j];
    }
  }
}

// out[w, c] += 3x3 average (or its transpose) at row h, from the sums v of three rows.
template <int CC>
inline void add_columns(float *out, const float *v, int64_t h, int64_t H, int64_t W, int64_t c_, bool transposed) {
  const int64_t C = CC ? CC : c_;
  float tall = std::min(H - 1, h + 1) - std::max<int64_t>(0, h - 1) + 1;
  for (int64_t w = 0; w < W; w++) {
    int64_t from = std::max<int64_t>(0, w - 1), to = std::min(W - 1, w + 1);
    for (int64_t i = from; i <= to; i++) {
      int64_t wide = transposed ? std::min(W - 1, i + 1) - std::max<int64_t>(0, i - 1) + 1 : to - from + 1;
      float weight = 1.0f / (transposed ? wide : wide * tall);
#pragma omp simd
      for (int64_t c = 0; c < C; c++) out[w * C + c] += weight * v[i * C + c];
    }
  }
}

// value = sum of normalised y, of plain x, and of 3x3 averages, each times its scale; relu = max(value, 0). Either may
// be null.
template <typename T, int CC>
void mix(float *value, T *relu, int64_t N, int64_t H, int64_t W, int64_t c_, int64_t K, const T *const *y,
         const float *const *mean, const float *const *rstd, const float *y_scale, int64_t A,
         const float *const *plain, const float *plain_scale, int64_t P, const float *const *pooled,
         const float *pooled_scale) {
  const int64_t C = CC ? CC : c_, row = W * C;
  std::vector<float> slope(K * C);
  for (int64_t k = 0; k < K; k++)
    for (int64_t c = 0; c < C; c++) slope[k * C + c] = y_scale[k] * rstd[k][c];
#pragma omp parallel
  {
    std::vector<float> spare(value ? 0 : row), three(P ? row : 0);
#pragma omp for schedule(static)
    for (int64_t line = 0; line < N * H; line++) {
      int64_t at = line * row;
      float *sum = value ? value + at : spare.data();
      if (!K) std::memset(sum, 0, row * sizeof(float));
      for (int64_t k = 0; k < K; k++)
        for (int64_t w = 0; w < W; w++)
#pragma omp simd
          for (int64_t c = 0; c < C; c++) {
            float before = k ? sum[w * C + c] : 0.0f;
            sum[w * C + c] = before + (get(y[k][at + w * C + c]) - mean[k][c]) * slope[k * C + c];
          }
      for (int64_t a = 0; a < A; a++)
#pragma omp simd
        for (int64_t j = 0; j < row; j++) sum[j] += plain_scale[a] * plain[a][at + j];
      if (P) {
        add_rows(three.data(), pooled, pooled_scale, P, line / H, line % H, H, row, false);
        add_columns<CC>(sum, three.data(), line % H, H, W, C, false);
      }
      if (relu)
#pragma omp simd
        for (int64_t j = 0; j < row; j++) put(relu[at + j], sum[j] <= 0 ? 0.0f : sum[j]);
    }
  }
}

// g = (relu > 0) * sum of convolutions' gradients + sum of plain ones + transposed 3x3 averages; and, over all rows,
// the sums of g and of g times each normalised y, which the batch norms' gradients need. Without `g` the one plain
// gradient is g itself.
template <typename T, int CC>
void gather(float *g, const T *relu, int64_t N, int64_t H, int64_t W, int64_t c_, int64_t R, const T *const *conv,
            int64_t A, const float *const *plain, const float *plain_scale, int64_t P, const float *const *pooled,
            const float *pooled_scale, int64_t K, const T *const *y, const float *const *mean,
            const float *const *rstd, float *sum_g, float *sum_gy) {
  const int64_t C = CC ? CC : c_, row = W * C, lines = N * H, each = std::max<int64_t>(1, BLOCK / W);
  const int64_t blocks = (lines + each - 1) / each, size = (K + 1) * C;
  std::vector<float> sums(K ? blocks * size : 0);
#pragma omp parallel
  {
    std::vector<float> three(P ? row : 0);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; b++)
      for (int64_t line = b * each; line < std::min(lines, (b + 1) * each); line++) {
        int64_t at = line * row;
        const float *here = g ? g + at : plain[0] + at;
        if (g) {
          float *sum = g + at;
          if (!R) std::memset(sum, 0, row * sizeof(float));
          for (int64_t r = 0; r < R; r++) {
            const T *from = conv[r] + at, *positive = relu + at;
#pragma omp simd
            for (int64_t j = 0; j < row; j++) {
              float grad = get(from[j]), mask = get(positive[j]) > 0 ? 1.0f : 0.0f;
              sum[j] = (r ? sum[j] : 0.0f) + grad * mask;
            }
          }
          for (int64_t a = 0; a < A; a++)
#pragma omp simd
            for (int64_t j = 0; j < row; j++) sum[j] += plain_scale[a] * plain[a][at + j];
          if (P) {
            add_rows(three.data(), pooled, pooled_scale, P, line / H, line % H, H, row, true);
            add_columns<CC>(sum, three.data(), line % H, H, W, C, true);
          }
        }
        if (!K) continue;
        float *s = &sums[b * size];
        for (int64_t w = 0; w < W; w++)
#pragma omp simd
          for (int64_t c = 0; c < C; c++) s[c] += here[w * C + c];
        for (int64_t k = 0; k < K; k++)
          for (int64_t w = 0; w < W; w++)
#pragma omp simd
            for (int64_t c = 0; c < C; c++)
              s[(k + 1) * C + c] += here[w * C + c] * (get(y[k][at + w * C + c]) - mean[k][c]) * rstd[k][c];
      }
  }
  if (!K) return;
  std::vector<double> total(size);
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t i = 0; i < size; i++) total[i] += sums[b * size + i];
  for (int64_t c = 0; c < C; c++) sum_g[c] = float(total[c]);
  for (int64_t i = C; i < size; i++) sum_gy[i - C] = float(total[i]);
}

// Gradients of the normalised y, times their scales: gy = scale * rstd * (g - mean(g) - ŷ * mean(g ŷ)).
template <typename T, int CC>
void norm_backward(T *const *gy, const float *g, int64_t rows, int64_t c_, int64_t K, const T *const *y,
                   const float *const *mean, const float *const *rstd, const float *y_scale, const float *sum_g,
                   const float *sum_gy) {
  const int64_t C = CC ? CC : c_;
  std::vector<float> times(K * C), slope(K * C), offset(K * C);  // gy = times * g + slope * (y - mean) + offset
  for (int64_t k = 0; k < K; k++)
    for (int64_t c = 0; c < C; c++) {
      float rate = y_scale[k] * rstd[k][c];
      times[k * C + c] = rate;
      slope[k * C + c] = -rate * rstd[k][c] * sum_gy[k * C + c] / rows;
      offset[k * C + c] = -rate * sum_g[c] / rows;
    }
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < (rows + BLOCK - 1) / BLOCK; b++)
    for (int64_t k = 0; k < K; k++)
      for (int64_t r = b * BLOCK; r < std::min(rows, (b + 1) * BLOCK); r++)
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
          int64_t i = r * C + c;
          put(gy[k][i], times[k * C + c] * g[i] + slope[k * C + c] * (get(y[k][i]) - mean[k][c]) + offset[k * C + c]);
        }
}

// Averages of 2x2 pixels; H and W are the output's, twice as many come in.
template <typename T>
void half(T *out, const float *x, int64_t N, int64_t H, int64_t W, int64_t C) {
  const int64_t row = 2 * W * C;
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < N * H; line++)
    for (int64_t w = 0; w < W; w++) {
      const float *top = x + 2 * line * row + 2 * w * C, *low = top + row;
#pragma omp simd
      for (int64_t c = 0; c < C; c++)
        put(out[(line * W + w) * C + c], 0.25f * (top[c] + top[C + c] + low[c] + low[C + c]));
    }
}

// Their gradient: a quarter of g at each of the four pixels.
template <typename T>
void half_backward(float *gx, const T *g, int64_t N, int64_t H, int64_t W, int64_t C) {
  const int64_t row = 2 * W * C;
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < N * H; line++)
    for (int64_t w = 0; w < W; w++) {
      float *top = gx + 2 * line * row + 2 * w * C, *low = top + row;
#pragma omp simd
      for (int64_t c = 0; c < C; c++)
        top[c] = top[C + c] = low[c] = low[C + c] = 0.25f * get(g[(line * W + w) * C + c]);
    }
}

}  // namespace

// One C function a kernel and type; the channels of the usual sizes are known to the compiler.
#define DISPATCH(kernel, T, C, ...)                          \
  switch (C) {                                               \
    case 16: return kernel<T, 16>(__VA_ARGS__);              \
    case 32: return kernel<T, 32>(__VA_ARGS__);              \
    case 64: return kernel<T, 64>(__VA_ARGS__);              \
    default: return kernel<T, 0>(__VA_ARGS__);               \
  }

#define KERNELS(T, SUFFIX)                                                                                             \
  extern "C" void moments_##SUFFIX(const T *y, int64_t rows, int64_t C, float eps, float *mean, float *rstd) {         \
    DISPATCH(moments, T, C, y, rows, C, eps, mean, rstd)                                                               \
  }                                                                                                                    \
  extern "C" void mix_##SUFFIX(float *value, T *relu, int64_t N, int64_t H, int64_t W, int64_t C, int64_t K,           \
                               const T *const *y, const float *const *mean, const float *const *rstd,                  \
                               const float *y_scale, int64_t A, const float *const *plain, const float *plain_scale,   \
                               int64_t P, const float *const *pooled, const float *pooled_scale) {                     \
    DISPATCH(mix, T, C, value, relu, N, H, W, C, K, y, mean, rstd, y_scale, A, plain, plain_scale, P, pooled,          \
             pooled_scale)                                                                                             \
  }                                                                                                                    \
  extern "C" void gather_##SUFFIX(float *g, const T *relu, int64_t N, int64_t H, int64_t W, int64_t C, int64_t R,      \
                                  const T *const *conv, int64_t A, const float *const *plain, const float *plain_scale, \
                                  int64_t P, const float *const *pooled, const float *pooled_scale, int64_t K, const T *const *y,                            \
                                  const float *const *mean, const float *const *rstd, float *sum_g, float *sum_gy) {   \
    DISPATCH(gather, T, C, g, relu, N, H, W, C, R, conv, A, plain, plain_scale, P, pooled, pooled_scale, K, y, mean,   \
             rstd, sum_g, sum_gy)                                                                                      \
  }                                                                                                                    \
  extern "C" void norm_backward_##SUFFIX(T *const *gy, const float *g, int64_t rows, int64_t C, int64_t K,             \
                                         const T *const *y, const float *const *mean, const float *const *rstd,        \
                                         const float *y_scale, const float *sum_g, const float *sum_gy) {              \
    DISPATCH(norm_backward, T, C, gy, g, rows, C, K, y, mean, rstd, y_scale, sum_g, sum_gy)                            \
  }                                                                                                                    \
  extern "C" void half_##SUFFIX(T *out, const float *x, int64_t N, int64_t H, int64_t W, int64_t C) {                  \
    half<T>(out, x, N, H, W, C);                                                                                       \
  }                                                                                                                    \
  extern "C" void half_backward_##SUFFIX(float *gx, const T *g, int64_t N, int64_t H, int64_t W, int64_t C) {          \
    half_backward<T>(gx, g, N, H, W, C);                                                                               \
  }

KERNELS(float, f32)
KERNELS(bf16, bf16)
