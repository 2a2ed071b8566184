// Gradients of depthwise convolutions, channels-last (N, H, W, C), for kernels of side 3, 5 and 7.
//
// Torch's forward is fast; its backward on a CPU takes up to fifty times as long where kernels are large or dilated.
// Here a few channels of an image are copied between zeros, where no product has to look for borders, and stay in the
// cache; sums stay in registers. The weight's gradient is summed image by image and then over images, so that results do
// not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t LANES = 8;  // channels at a time
constexpr int64_t TILE = 4;   // pixels at a time
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4)));

struct Sizes {
  int64_t H, W, C, out_h, out_w, stride, dilation;
};

// The channels of an image (H, W, C) to every `stride`-th pixel of rows of `width`.
void spread(vec *to, int64_t width, int64_t stride, const float *from, int64_t H, int64_t W, int64_t C, int64_t lanes) {
  for (int64_t h = 0; h < H; h++)
    for (int64_t w = 0; w < W; w++) {
      vec *pixel = to + h * stride * width + w * stride;
      if (lanes == LANES)
        *pixel = *reinterpret_cast<const loose *>(from + (h * W + w) * C);
      else
        std::memcpy(pixel, from + (h * W + w) * C, lanes * sizeof(float));
    }
}

void put(float *to, vec value, int64_t lanes) {
  if (lanes == LANES)
    *reinterpret_cast<loose *>(to) = value;
  else
    std::memcpy(to, &value, lanes * sizeof(float));
}

// R pixels of the input's gradient: each kernel place is turned about, from the padded gradient g of the output.
template <int64_t K, int64_t R>
inline void pixels(float *gx, const vec *g, const vec *w, int64_t width, const Sizes &s, int64_t lanes) {
  vec sums[R] = {};
  for (int64_t i = 0; i < K; i++)
    for (int64_t j = 0; j < K; j++)
      for (int64_t r = 0; r < R; r++)
        sums[r] += g[(K - 1 - i) * s.dilation * width + (K - 1 - j) * s.dilation + r] * w[i * K + j];
  for (int64_t r = 0; r < R; r++) put(gx + r * s.C, sums[r], lanes);
}

// One image: gx (H, W, C) and gw (K, K, C) from g (out_h, out_w, C), x (H, W, C) and w (K, K, C).
template <int64_t K>
void image(float *gx, float *gw, const float *g, const float *x, const float *w, const Sizes &s) {
  const int64_t pad = s.dilation * (K / 2), width = s.W + 2 * pad, first = pad * width + pad;
  std::vector<vec> xs((s.H + 2 * pad) * width), gs(xs.size());
  vec ws[K * K] = {};
  for (int64_t c = 0; c < s.C; c += LANES) {
    const int64_t lanes = std::min(LANES, s.C - c);
    spread(&xs[first], width, 1, x + c, s.H, s.W, s.C, lanes);
    spread(&gs[first], width, s.stride, g + c, s.out_h, s.out_w, s.C, lanes);
    spread(ws, K, 1, w + c, K, K, s.C, lanes);
    for (int64_t h = 0; h < s.H; h++) {
      float *row = gx + h * s.W * s.C + c;
      int64_t v = 0;
      for (; v + TILE <= s.W; v += TILE) pixels<K, TILE>(row + v * s.C, &gs[h * width + v], ws, width, s, lanes);
      for (; v < s.W; v++) pixels<K, 1>(row + v * s.C, &gs[h * width + v], ws, width, s, lanes);
    }
    for (int64_t i = 0; i < K; i++) {
      vec sums[K] = {};
      for (int64_t h = 0; h < s.out_h; h++)
        for (int64_t v = 0; v < s.out_w; v++) {
          const vec grad = gs[first + h * s.stride * width + v * s.stride];
          const vec *read = &xs[(h * s.stride + i * s.dilation) * width + v * s.stride];
          for (int64_t j = 0; j < K; j++) sums[j] += grad * read[j * s.dilation];
        }
      for (int64_t j = 0; j < K; j++) put(gw + (i * K + j) * s.C + c, sums[j], lanes);
    }
  }
}

}  // namespace

// gx (N, H, W, C) and gw (K, K, C) from g (N, out_h, out_w, C), x (N, H, W, C) and w (K, K, C); padded by
// dilation * (K / 2).
extern "C" void depthwise_backward(float *gx, float *gw, const float *g, const float *x, const float *w, int64_t N,
                                   int64_t H, int64_t W, int64_t C, int64_t out_h, int64_t out_w, int64_t K,
                                   int64_t stride, int64_t dilation) {
  const Sizes s{H, W, C, out_h, out_w, stride, dilation};
  const int64_t weights = K * K * C;
  const auto one = K == 3 ? image<3> : K == 5 ? image<5> : image<7>;
  std::vector<float> partial(N * weights);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < N; n++)
    one(gx + n * H * W * C, &partial[n * weights], g + n * out_h * out_w * C, x + n * H * W * C, w, s);
  std::memset(gw, 0, weights * sizeof(float));
  for (int64_t n = 0; n < N; n++)
#pragma omp simd
    for (int64_t k = 0; k < weights; k++) gw[k] += partial[n * weights + k];
}
