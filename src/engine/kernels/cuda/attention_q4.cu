// Attention over keys and values of 4 bits.
#include "attention.cuh"

ATTENTION(Q4, q4)
