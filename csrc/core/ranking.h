// Ranks of the right gallery images of every query, without ever sorting a gallery.
//
// Nothing but the rank of each positive (a kept gallery image of the query's identity) enters CMC, AP and
// INP, and a rank is a count: the kept images that come before. So the positives of a query are sorted (a
// handful), and every gallery image is put into the gap between two positives where it belongs: distances are
// cut into equal steps, and only within a step that holds positives is there anything to compare. The running
// sum over the gaps gives the ranks. Order: smaller distance first, equal distances by gallery position, which
// is the order of a stable sort.
//
// Memory beside the input: a few numbers per gallery image and thread, and per thread one tile of distances,
// the positives of its queries and, for the distinct-identity CMC, one byte per query of the tile and gallery
// image. Never queries x gallery.
#pragma once

#include <cstdint>

#include "distances.h"
#include "labels.h"

namespace toplight {

struct Execution {
  int threads;           // <= 0: one per core
  int64_t query_tile;    // queries that a thread takes at once
  int64_t gallery_tile;  // gallery images whose distances to them exist at once
};

// Scores of every query; 0 for all three where no kept gallery image has the query's identity.
// Throws std::domain_error naming the pair if a distance is not finite.
template <class T>
void rank(const Distances<T>& distances, const Labels& labels,
          bool distinct_identities,          // the first rank counts the identities before it once, not their images
          const Execution& execution,
          double* average_precision,         // (queries,): mean over positives of position among positives / rank
          double* inverse_negative_penalty,  // (queries,): number of positives / rank of the last one
          int64_t* first_rank);              // (queries,): rank of the first positive, from 1

// The `top` nearest kept gallery images of every query, nearest first.
// Throws as rank() does.
template <class T>
void nearest(const Distances<T>& distances, const Labels& labels, int64_t top, const Execution& execution,
             int64_t* gallery,         // (queries, top): gallery positions; -1 after the last kept image
             T* distance,              // (queries, top): NaN after the last kept image
             T* farthest = nullptr);   // (queries,): distance of the farthest kept image, NaN without one

}  // namespace toplight
