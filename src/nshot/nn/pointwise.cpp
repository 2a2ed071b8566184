// 1x1 convolutions of the CPU's fast path (nshot.nn.fused): products of a tall matrix of pixels with a small one.
//
// Libraries of matrix products are made for large ones; here the small matrix stays in the cache, and each product is
// made of tiles whose sums stay in registers. Widths are multiples of 16. Sums over pixels run over fixed blocks and
// then over the blocks, so that results do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

typedef float vec __attribute__((vector_size(64), aligned(4)));

constexpr int64_t WIDE = 16;    // floats in a vec
constexpr int64_t BLOCK = 512;  // pixels that one partial sum covers
#ifdef __AVX512F__
constexpr int64_t TALL = 8;  // rows of a tile
#else
constexpr int64_t TALL = 4;
#endif

// out[r, 0..15] = sum over k < K of a[r, k] * b[k, 0..15] for R rows; each matrix with its strides.
template <int64_t R>
inline void tile(float *out, int64_t out_row, const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_k,
                 int64_t K) {
  vec sums[R] = {};
  for (int64_t k = 0; k < K; k++) {
    vec right = *reinterpret_cast<const vec *>(b + k * b_k);
    for (int64_t r = 0; r < R; r++) sums[r] += a[r * a_row + k * a_k] * right;
  }
  for (int64_t r = 0; r < R; r++) *reinterpret_cast<vec *>(out + r * out_row) = sums[r];
}

// out (M, N) = a (M, K) b (K, N); b and out are contiguous.
inline void product(float *out, int64_t M, int64_t N, const float *a, int64_t a_row, int64_t a_k, const float *b,
                    int64_t K) {
  for (int64_t n = 0; n < N; n += WIDE) {
    int64_t m = 0;
    for (; m + TALL <= M; m += TALL) tile<TALL>(out + m * N + n, N, a + m * a_row, a_row, a_k, b + n, N, K);
    for (; m < M; m++) tile<1>(out + m * N + n, N, a + m * a_row, a_row, a_k, b + n, N, K);
  }
}

}  // namespace

// y (rows, O) = x (rows, I) w^T, with w (O, I).
extern "C" void pointwise(float *y, const float *x, const float *w, int64_t rows, int64_t I, int64_t O) {
  std::vector<float> turned(I * O);
  for (int64_t o = 0; o < O; o++)
    for (int64_t i = 0; i < I; i++) turned[i * O + o] = w[o * I + i];
#pragma omp parallel for schedule(static)
  for (int64_t from = 0; from < rows; from += BLOCK)
    product(y + from * O, std::min(BLOCK, rows - from), O, x + from * I, I, 1, turned.data(), I);
}

// gx (rows, I) = g (rows, O) w, where gx is not null, and gw (O, I) = g^T x.
extern "C" void pointwise_backward(float *gx, float *gw, const float *g, const float *x, const float *w, int64_t rows,
                                   int64_t I, int64_t O) {
  const int64_t blocks = (rows + BLOCK - 1) / BLOCK;
  std::vector<float> partial(blocks * O * I);
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < blocks; b++) {
    int64_t from = b * BLOCK, count = std::min(BLOCK, rows - from);
    if (gx) product(gx + from * I, count, I, g + from * O, O, 1, w, O);
    product(&partial[b * O * I], O, I, g + from * O, 1, O, x + from * I, count);
  }
  std::memset(gw, 0, O * I * sizeof(float));
  for (int64_t b = 0; b < blocks; b++)
#pragma omp simd
    for (int64_t i = 0; i < O * I; i++) gw[i] += partial[b * O * I + i];
}
