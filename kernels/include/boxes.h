// Boxes: xmin, ymin, xmax, ymax, in units of the image.
#pragma once
#include "both.h"

BREW_BOTH float box_area(const float* b) { return b[2] < b[0] || b[3] < b[1] ? 0.0f : (b[2] - b[0]) * (b[3] - b[1]); }

// Intersection over union (Jaccard).
BREW_BOTH float box_overlap(const float* a, const float* b) {
  const float width = fminf(a[2], b[2]) - fmaxf(a[0], b[0]), height = fminf(a[3], b[3]) - fmaxf(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const float both = width * height;
  return both / (box_area(a) + box_area(b) - both);
}
// The threshold after a box was kept: eta < 1 lowers it, down to 0.5 (SSD's adaptive suppression).
BREW_BOTH float next_threshold(float threshold, float eta) { return eta < 1 && threshold > 0.5f ? threshold * eta : threshold; }
