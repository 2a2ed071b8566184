// The optimizer of the CPU's fast path (nshot.training.optimizers): all weights in one pass.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

// Sum of the squares of many tensors, in double precision.
extern "C" void square_sum(int64_t count, const int64_t *sizes, const float *const *g, double *total) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) {
    if (!g[i]) continue;
    float lanes[16] = {};
    int64_t whole = sizes[i] / 16 * 16;
    for (int64_t from = 0; from < whole; from += 4096) {
      for (int64_t j = from; j < std::min(whole, from + 4096); j += 16)
#pragma omp simd
        for (int64_t l = 0; l < 16; l++) lanes[l] += g[i][j + l] * g[i][j + l];
      for (float &lane : lanes) sum += lane, lane = 0;
    }
    for (int64_t j = whole; j < sizes[i]; j++) sum += double(g[i][j]) * g[i][j];
  }
  *total = sum;
}

// SGD with momentum (torch's formula) over many tensors at once: g is scaled, null where a gradient is zero.
extern "C" void sgd(int64_t count, const int64_t *sizes, float *const *w, float *const *m, const float *const *g,
                    float lr, float momentum, float decay, float scale, int64_t nesterov) {
  constexpr int64_t CHUNK = 16384;
  std::vector<std::pair<int64_t, int64_t>> chunks;
  for (int64_t i = 0; i < count; i++)
    for (int64_t from = 0; from < sizes[i]; from += CHUNK) chunks.emplace_back(i, from);
#pragma omp parallel for schedule(static)
  for (size_t chunk = 0; chunk < chunks.size(); chunk++) {
    auto [i, from] = chunks[chunk];
    int64_t length = std::min(CHUNK, sizes[i] - from);
    float *weight = w[i] + from, *moment = m[i] + from;
    const float *grad = g[i] ? g[i] + from : nullptr;
    float own = nesterov ? 1.0f : 0.0f, carried = nesterov ? momentum : 1.0f;
    if (grad)
#pragma omp simd
      for (int64_t j = 0; j < length; j++) {
        float d = grad[j] * scale + decay * weight[j];
        moment[j] = momentum * moment[j] + d;
        weight[j] -= lr * (own * d + carried * moment[j]);
      }
    else
#pragma omp simd
      for (int64_t j = 0; j < length; j++) {
        float d = decay * weight[j];
        moment[j] = momentum * moment[j] + d;
        weight[j] -= lr * (own * d + carried * moment[j]);
      }
  }
}
