// Attention over keys and values of 8 bits.
#include "attention.cuh"

ATTENTION(FP8, fp8)
