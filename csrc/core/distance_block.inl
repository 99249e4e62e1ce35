// Sums over the feature dimension for a small block of pairs. distances.cpp includes this once per
// instruction set, inside a namespace of that name; hence no include guard and no #include here.

// 32 bytes per vector: one AVX2 register, or two of SSE2 or NEON.
template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(32)));
  static constexpr int64_t lanes = 32 / sizeof(T);
};

// Written through a reference, since how a vector is returned depends on the instruction set.
template <class T>
inline __attribute__((always_inline)) void load(const T* from, int64_t count, typename Vector<T>::type& vector) {
  vector = typename Vector<T>::type{};
  std::memcpy(&vector, from, count * sizeof(T));
}

// One step of every sum of the block. `count` is the number of lanes present: fewer only at the end of a
// row, where the others are zero and add nothing.
template <bool squared_difference, class T>
inline __attribute__((always_inline)) void accumulate(const T* const* query, const T* const* gallery, int64_t k,
                                                      int64_t count,
                                                      typename Vector<T>::type (&sum)[block_queries][block_gallery]) {
  typename Vector<T>::type x[block_queries];
#pragma GCC unroll 4
  for (int a = 0; a < block_queries; ++a) load(query[a] + k, count, x[a]);
#pragma GCC unroll 4
  for (int b = 0; b < block_gallery; ++b) {
    typename Vector<T>::type y;
    load(gallery[b] + k, count, y);
#pragma GCC unroll 4
    for (int a = 0; a < block_queries; ++a) {
      const auto left = squared_difference ? x[a] - y : x[a];
      sum[a][b] += left * (squared_difference ? left : y);
    }
  }
}

template <bool squared_difference, class T>
void block_sums(const T* const* query,    // block_queries rows of dim numbers
                const T* const* gallery,  // block_gallery rows of dim numbers
                int64_t dim,
                T* out) {                 // (block_queries, block_gallery)
  constexpr int64_t lanes = Vector<T>::lanes;
  typename Vector<T>::type sum[block_queries][block_gallery] = {};
  int64_t k = 0;
  for (; k + lanes <= dim; k += lanes) accumulate<squared_difference>(query, gallery, k, lanes, sum);
  if (k < dim) accumulate<squared_difference>(query, gallery, k, dim - k, sum);
#pragma GCC unroll 4
  for (int a = 0; a < block_queries; ++a) {
#pragma GCC unroll 4
    for (int b = 0; b < block_gallery; ++b) {
      T total = 0;
#pragma GCC unroll 8
      for (int64_t lane = 0; lane < lanes; ++lane) total += sum[a][b][lane];
      out[a * block_gallery + b] = total;
    }
  }
}
