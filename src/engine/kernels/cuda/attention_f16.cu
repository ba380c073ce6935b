// Attention over keys and values of halves.
#include "attention.cuh"

ATTENTION(HALF, f16)
